"""Questions about customers."""

from dataclasses import dataclass, field, fields
from uuid import UUID

from apps.common import prepared
from apps.common.errors import DomainError
from apps.customers.models import Customer


class UnknownCustomer(DomainError):
    """There is no such customer, or it is not yours."""

    code, status = "R801", 422

    def __init__(self, detail: str | None = None, *, field: str | None = "customerId") -> None:
        super().__init__(detail, field=field)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerView:
    """A customer, as values. ``default_method`` is "card" or "balance"; ``account_id``: whose it is; empty: nobody's."""

    id: UUID
    account_id: str
    name: str
    cpf: str = field(repr=False)
    email: str = field(repr=False)
    default_method: str
    card_token: str | None = field(repr=False)
    ledger_branch: str | None
    ledger_account: str | None


_COLUMNS = [column.name for column in fields(CustomerView)]
_CUSTOMER = f"SELECT {', '.join(_COLUMNS)} FROM customers_customer WHERE id = %(id)s"  # noqa: S608  # names of columns


def view_of(row: Customer) -> CustomerView:
    """The values of a row."""
    return CustomerView(
        id=row.pk,
        account_id=row.account_id,
        name=row.name,
        cpf=row.cpf,
        email=row.email,
        default_method=row.default_method,
        card_token=row.card_token,
        ledger_branch=row.ledger_branch,
        ledger_account=row.ledger_account,
    )


def customer(customer_id: UUID) -> CustomerView:
    """The customer with this id, whosever it is. Raises UnknownCustomer."""
    found = prepared.execute(_CUSTOMER, {"id": customer_id}).fetchone()
    if found is None:
        raise UnknownCustomer
    return CustomerView(**dict(zip(_COLUMNS, found, strict=True)))
