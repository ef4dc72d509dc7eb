"""Documents built from sales: totals to the cent, XSD-valid, saying what the customer pays."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.common.money import CENT
from apps.fiscal_docs import schemas, signature
from apps.fiscal_docs.documents import draft, sale, serial
from apps.fiscal_docs.documents.archive import NAMESPACE, cut, nfe_proc
from apps.fiscal_docs.documents.sale import BuyerAddress, SaleItem, SaleNotDocumentable, SaleToDocument
from apps.fiscal_docs.documents.totals import spread
from apps.fiscal_docs.keys import new_key
from tests.unit.fiscal_docs.conftest import Signer

NOW = datetime(2026, 11, 21, 15, 0, tzinfo=UTC)
ISSUER = draft.IssuerData(
    cnpj="11222333000181", name="BILHETERIA EXEMPLO LTDA", state_registration="111111111119", tax_regime="1",
    street="RUA DO PALCO", street_number="100", district="CENTRO", city_code="3550308", city="SÃO PAULO", uf="SP",
    uf_code="35", postal_code="01310100",
)  # fmt: skip
ADDRESS = BuyerAddress(
    street="PRAÇA DA SÉ",
    street_number="1",
    district="CENTRO",
    city_code="3550308",
    city="SÃO PAULO",
    uf="SP",
    postal_code="01001000",
)
ITEM = SaleItem(code="day-one", name="day-one", quantity=1, unit_amount=Decimal("200.00"))
SEED = SaleToDocument(order_id=UUID(int=7), items=(ITEM,), total=Decimal("10.50"))

amounts = st.integers(1, 10**9).map(lambda cents: CENT * cents)


class TestSpread:
    @settings(deadline=None)
    @given(weights=st.lists(amounts, min_size=1, max_size=40), part=st.fractions(0, 1))
    def test_adds_up_to_the_cent_and_never_exceeds_an_item(self, weights: list[Decimal], part: Any) -> None:
        amount = CENT * int(int(sum(weights) * 100) * part)
        shares = spread(amount, weights)
        assert sum(shares) == amount
        assert all(0 <= share <= weight for share, weight in zip(shares, weights, strict=True))

    @settings(deadline=None)
    @given(weights=st.lists(amounts, min_size=1, max_size=40), amount=amounts)
    def test_adds_up_for_charges_of_any_size(self, weights: list[Decimal], amount: Decimal) -> None:
        assert sum(spread(amount, weights)) == amount

    def test_gives_the_odd_cent_to_the_largest_remainder(self) -> None:
        assert spread(Decimal("0.10"), [Decimal("1.00"), Decimal("1.00"), Decimal("2.00")]) == [
            Decimal("0.03"), Decimal("0.02"), Decimal("0.05"),
        ]  # fmt: skip


def made(sold: SaleToDocument, signer: Signer) -> bytes:
    key = new_key(uf_code="35", issued_at=NOW, cnpj=ISSUER.cnpj, kind=sold.kind, series=1, number=1)
    xml = draft.build(draft.Draft(issuer=ISSUER, sale=sold, key=key, issued_at=NOW, environment="2"))
    return signature.sign(xml.encode(), reference=f"NFe{key}", key=signer.key, certificate=signer.certificate)


def values(xml: bytes, tag: str) -> list[str]:
    return [node.text or "" for node in signature.read_xml(xml).iter(f"{{{NAMESPACE}}}{tag}")]


CHANGES = pytest.mark.parametrize(
    "changes",
    [
        {},
        {"total": Decimal("200.00")},
        {"total": Decimal("230.01")},
        {"payment_code": sale.PAYMENT_ACCOUNT_BALANCE},
        {"payment_code": "17"},
        {"buyer_document": "52998224725", "buyer_name": "Maria"},
        {"buyer_document": "12ABC34501DE35"},
        {"kind": "55", "buyer_document": "52998224725", "buyer_name": "Maria", "buyer_address": ADDRESS},
        {"items": (ITEM,) * 40, "total": Decimal("7999.99")},
        {"items": (replace(ITEM, quantity=7, unit_amount=Decimal("0.01")),), "total": Decimal("0.01")},
        {"items": (replace(ITEM, unit_amount=sale.UNIT_AMOUNT_MAX),)},
    ],
    ids=["seed", "exact", "charges", "balance", "pix", "cpf", "cnpj", "nfe", "many items", "cents", "dearest"],
)


class TestBuild:
    @CHANGES
    def test_makes_a_document_that_passes_the_official_schema(self, signer: Signer, changes: dict[str, Any]) -> None:
        assert schemas.errors(made(replace(SEED, **changes), signer), schemas.NFE) == []

    @CHANGES
    @pytest.mark.parametrize("name", ["day-one", "R&B <ao vivo> > tudo", 'Copo d\'Água "grande"', "ção"])
    def test_is_written_to_the_byte_as_the_library_writes_it(
        self, changes: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Any] = []
        written = serial._written
        monkeypatch.setattr(serial, "_written", lambda tag, value, *more: seen.append(value) or written(tag, value, *more))
        sold = replace(SEED, **changes)
        sold = replace(sold, items=tuple(replace(item, name=name) for item in sold.items))
        key = new_key(uf_code="35", issued_at=NOW, cnpj=ISSUER.cnpj, kind=sold.kind, series=1, number=1)
        xml = draft.build(draft.Draft(issuer=ISSUER, sale=sold, key=key, issued_at=NOW, environment="2"))
        assert xml == serial.by_xsdata(seen[0])

    def test_says_the_seeds_example_as_a_discount(self, signer: Signer) -> None:
        xml = made(SEED, signer)
        assert values(xml, "vDesc") == ["189.50", "189.50"]  # the item's and the total's
        assert values(xml, "vOutro") == ["0.00"]
        assert values(xml, "vNF") == values(xml, "vPag") == ["10.50"]

    @settings(max_examples=25, deadline=None)
    @given(
        prices=st.lists(st.tuples(st.integers(1, 99_999), st.integers(1, 9)), min_size=1, max_size=6),
        total=st.integers(1, 999_999),
    )
    def test_always_adds_up_to_what_the_customer_pays(self, prices: list[tuple[int, int]], total: int) -> None:
        items = tuple(replace(ITEM, quantity=n, unit_amount=CENT * cents) for cents, n in prices)
        sold = replace(SEED, items=items, total=CENT * total)
        key = new_key(uf_code="35", issued_at=NOW, cnpj=ISSUER.cnpj, kind="65", series=1, number=1)
        xml = draft.build(draft.Draft(issuer=ISSUER, sale=sold, key=key, issued_at=NOW, environment="2")).encode()

        def total_of(tag: str) -> Decimal:
            return sum((Decimal(text) for text in values(xml, tag)), Decimal(0)) / 2  # items and total say it once each

        assert total_of("vProd") - total_of("vDesc") + total_of("vOutro") == sold.total
        assert [Decimal(text) for text in values(xml, "vNF")] == [sold.total]

    def test_says_on_test_documents_that_they_have_no_value_and_keeps_the_items_name(self, signer: Signer) -> None:
        xml = made(replace(SEED, items=(ITEM, replace(ITEM, name="day-two"))), signer)
        assert values(xml, "xProd")[0].endswith("SEM VALOR FISCAL")
        assert values(xml, "infAdProd") == ["day-one"]
        assert values(xml, "xProd")[1] == "day-two"

    def test_carries_a_qr_code_of_version_three(self, signer: Signer) -> None:
        xml = made(SEED, signer)
        (code,) = values(xml, "qrCode")
        assert code.endswith("|3|2")

    def test_a_bad_ncm_fails_the_schema(self, signer: Signer) -> None:
        assert schemas.errors(made(replace(SEED, items=(replace(ITEM, ncm="4911"),)), signer), schemas.NFE)


class TestCheck:
    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"items": ()}, "items"),
            ({"items": (ITEM,) * 991}, "items"),
            ({"total": Decimal("0.00")}, "total"),
            ({"total": Decimal("-1.00")}, "total"),
            ({"total": Decimal("1.005")}, "total"),
            ({"items": (replace(ITEM, quantity=0),)}, "items[0].quantity"),
            ({"items": (ITEM, replace(ITEM, unit_amount=Decimal("0.00")))}, "items[1].unit_amount"),
            ({"items": (replace(ITEM, unit_amount=sale.UNIT_AMOUNT_MAX + CENT),)}, "items[0].unit_amount"),
            ({"items": (replace(ITEM, ncm="4911990x"),)}, "items[0].ncm"),
            ({"items": (replace(ITEM, name="  "),)}, "items[0].name"),
            ({"items": (replace(ITEM, cfop="51"),)}, "items[0].cfop"),
            ({"payment_code": "02x"}, "payment_code"),
            ({"buyer_document": "52998224724"}, "buyer_document"),
            ({"buyer_document": "529.982.247-25"}, "buyer_document"),
            ({"kind": "57"}, "kind"),
            ({"kind": "55"}, "buyer_document"),
        ],
    )
    def test_refuses_and_names_the_field(self, changes: dict[str, Any], field: str) -> None:
        with pytest.raises(SaleNotDocumentable) as refusal:
            sale.check(replace(SEED, **changes))
        assert refusal.value.field == field

    def test_passes_the_seeds_example(self) -> None:
        sale.check(SEED)
        assert (SEED.discount, SEED.other_charges) == (Decimal("189.50"), Decimal(0))


class TestPrintable:
    @settings(deadline=None)
    @given(st.text())
    def test_is_always_accepted_by_the_layout(self, text: str) -> None:
        said = draft.printable(text)
        assert 1 <= len(said) <= draft.TEXT_MAX
        assert said == said.strip()
        assert all(" " <= character <= "ÿ" for character in said)


class TestArchive:
    def test_keeps_the_signed_bytes_and_the_answer_as_they_are(self) -> None:
        spliced = nfe_proc(b'<?xml version="1.0"?><NFe>\xc3\xa9</NFe>', b"<protNFe>x</protNFe>")
        assert spliced.endswith(b"><NFe>\xc3\xa9</NFe><protNFe>x</protNFe></nfeProc>")

    def test_cuts_an_element_and_not_one_whose_name_begins_alike(self) -> None:
        assert cut(b"<a><retEventos/><retEvento v='1'>x</retEvento></a>", "retEvento") == b"<retEvento v='1'>x</retEvento>"
        assert cut(b"<a/>", "retEvento") == b""
