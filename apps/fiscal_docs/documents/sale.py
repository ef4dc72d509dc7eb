"""What is documented: a sale, frozen, in the words of the order. Pure."""

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from stdnum.br import cpf
from stdnum.exceptions import ValidationError

from apps.common.errors import DomainError
from apps.common.money import AMOUNT_MAX, exact_cents
from apps.fiscal_docs.keys import cnpj_is_valid

ITEMS_MAX = 990  # the layout's own limit
QUANTITY_MAX = 10_000_000_000  # qCom has eleven digits before the comma
UNIT_AMOUNT_MAX = Decimal("99999999999.99")  # vUnCom, too: two less than an amount of ours
# Codes of the field tPag. An account balance is a stored value that the customer moves to us: "Transferência bancária,
# Carteira Digital". 21 (store credit) would be for returned goods, 17 (Pix) for a Pix.
PAYMENT_CARD = "03"
PAYMENT_ACCOUNT_BALANCE = "18"
PAYMENT_CODES = frozenset({"01", "03", "04", "05", "15", "16", "17", "18", "19", "20", "21"})
# Ingresso impresso: printed matter, other. Sale within the state of goods bought from others.
NCM_TICKET = "49119900"
CFOP_SALE = "5102"


class SaleNotDocumentable(DomainError):
    """A fiscal document cannot be issued for this sale."""

    code = "R404"


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleItem:
    """One line: ``quantity`` units at ``unit_amount`` (BRL)."""

    code: str
    name: str
    quantity: int
    unit_amount: Decimal
    ncm: str = NCM_TICKET
    cfop: str = CFOP_SALE
    unit: str = "UN"

    @property
    def amount(self) -> Decimal:
        """What the line costs before discounts and charges."""
        return self.unit_amount * self.quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class BuyerAddress:
    """Where the buyer lives; an NF-e (55) cannot do without."""

    street: str
    street_number: str
    district: str
    city_code: str
    city: str
    uf: str
    postal_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleToDocument:
    """A paid order. ``total`` is what the customer pays: below the items' sum is a discount, above it other charges."""

    order_id: UUID
    items: tuple[SaleItem, ...]
    total: Decimal
    payment_code: str = PAYMENT_CARD
    buyer_document: str = ""
    buyer_name: str = ""
    buyer_address: BuyerAddress | None = None
    kind: str = "65"
    issuer_cnpj: str = ""
    account_id: str = ""

    @property
    def items_amount(self) -> Decimal:
        return sum((item.amount for item in self.items), Decimal(0))

    @property
    def discount(self) -> Decimal:
        return max(self.items_amount - self.total, Decimal(0))

    @property
    def other_charges(self) -> Decimal:
        return max(self.total - self.items_amount, Decimal(0))


def check(sale: SaleToDocument) -> None:
    """Everything about a sale that the authority would refuse and that we can see. Raises SaleNotDocumentable."""
    if not 1 <= len(sale.items) <= ITEMS_MAX:
        raise SaleNotDocumentable(f"A document has 1 to {ITEMS_MAX} items, not {len(sale.items)}.", field="items")
    for index, item in enumerate(sale.items):
        _check_item(item, f"items[{index}]")
    _check_amount(sale.total, "total")
    if sale.items_amount > AMOUNT_MAX:
        raise SaleNotDocumentable("The items together cost more than an amount can hold.", field="items")
    if sale.payment_code not in PAYMENT_CODES:
        raise SaleNotDocumentable(f"{sale.payment_code} is no known means of payment.", field="payment_code")
    _check_buyer(sale)


def _check_amount(value: Decimal, field: str) -> None:
    try:
        exact_cents(value)
    except ValueError as error:
        raise SaleNotDocumentable(f"{error}.", field=field) from None
    if value <= 0:
        raise SaleNotDocumentable(f"{field} must be more than zero.", field=field)


def _check_item(item: SaleItem, path: str) -> None:
    if not 1 <= item.quantity <= QUANTITY_MAX:
        raise SaleNotDocumentable(f"A quantity of {item.quantity} cannot be documented.", field=f"{path}.quantity")
    _check_amount(item.unit_amount, f"{path}.unit_amount")
    if item.unit_amount > UNIT_AMOUNT_MAX:
        raise SaleNotDocumentable(f"{item.unit_amount} for one cannot be documented.", field=f"{path}.unit_amount")
    if not (item.ncm.isascii() and item.ncm.isdigit() and len(item.ncm) in (2, 8)):
        raise SaleNotDocumentable(f"{item.ncm!r} is no NCM: eight digits, or 00 for a service.", field=f"{path}.ncm")
    if not (item.cfop.isascii() and item.cfop.isdigit() and len(item.cfop) == 4):
        raise SaleNotDocumentable(f"{item.cfop!r} is no CFOP: four digits.", field=f"{path}.cfop")
    if not item.name.strip():
        raise SaleNotDocumentable("An item has no name.", field=f"{path}.name")


def _check_buyer(sale: SaleToDocument) -> None:
    if sale.kind not in {"55", "65"}:
        raise SaleNotDocumentable(f"{sale.kind!r} is no kind that we issue.", field="kind")
    if sale.buyer_document and not _is_taxpayer(sale.buyer_document):
        raise SaleNotDocumentable("The buyer's CPF or CNPJ is not valid.", field="buyer_document")
    if sale.kind == "55" and not (sale.buyer_document and sale.buyer_name and sale.buyer_address):
        raise SaleNotDocumentable("An NF-e needs the buyer's document, name and address.", field="buyer_document")


def _is_taxpayer(document: str) -> bool:
    if len(document) == 14:
        return cnpj_is_valid(document)
    try:
        return bool(cpf.validate(document) == document)
    except ValidationError:
        return False
