"""The groups that NF-e and NFC-e share, as nfelib bindings. Loads nfelib: import it through ``draft.build`` only.

Amounts are texts and codes are enum objects; xsdata checks nothing, the XSD does.
"""

from decimal import Decimal
from typing import Any

from nfelib.nfe.bindings.v4_0 import leiaute_nfe_v4_00 as L
from nfelib.nfe.bindings.v4_0 import tipos_basico_v4_00 as B
from nfelib.nfe.bindings.v4_0.nfe_v4_00 import Nfe

from apps.fiscal_docs.documents.draft import Draft, local_time, printable
from apps.fiscal_docs.documents.sale import SaleItem
from apps.fiscal_docs.documents.totals import spread

Inf = Nfe.InfNfe
ZERO = "0.00"
PROGRAM = "Lastro 0.1"
REASON_MAX = 255  # xJust
# The authority demands these words in its test environment (373, 598), so that nobody takes a test for a document.
TEST_ITEM = "NOTA FISCAL EMITIDA EM AMBIENTE DE HOMOLOGACAO - SEM VALOR FISCAL"
TEST_BUYER = "NF-E EMITIDA EM AMBIENTE DE HOMOLOGACAO - SEM VALOR FISCAL"
BRAZIL = "1058"
# Taxes and costs that a sale of tickets by a company of Simples Nacional does not have.
NOT_CHARGED = (
    *("vBC", "vICMS", "vICMSDeson", "vFCP", "vBCST", "vST", "vFCPST", "vFCPSTRet", "vFrete", "vSeg", "vII"),
    *("vIPI", "vIPIDevol", "vPIS", "vCOFINS"),
)
CARD_PAYMENTS = frozenset({"03", "04"})


def money(amount: Decimal) -> str:
    return f"{amount:.2f}"


def _some(amount: Decimal) -> str | None:
    """Zero is left out: the layout has no 0.00 there."""
    return money(amount) if amount else None


def head(draft: Draft, *, print_format: str, presence: str) -> Any:
    key, issuer = draft.key, draft.issuer
    return Inf.Ide(
        cUF=B.TcodUfIbge(key.uf_code),
        cNF=key.code,
        natOp="VENDA DE INGRESSOS",
        mod=B.Tmod(key.kind),
        serie=str(key.series),
        nNF=str(key.number),
        dhEmi=local_time(draft.issued_at),
        tpNF=L.IdeTpNf("1"),
        idDest=L.IdeIdDest("1"),
        cMunFG=issuer.city_code,
        tpImp=L.IdeTpImp(print_format),
        tpEmis=L.IdeTpEmis(key.emission_type),
        cDV=str(key)[-1],
        tpAmb=B.Tamb(draft.environment),
        finNFe=L.TfinNfe("1"),
        indFinal=L.IdeIndFinal("1"),
        indPres=L.IdeIndPres(presence),
        indIntermed=L.IdeIndIntermed("0") if key.kind == "55" else None,
        procEmi=L.TprocEmi("0"),
        verProc=PROGRAM,
        dhCont=local_time(draft.offline.since) if draft.offline else None,
        xJust=printable(draft.offline.reason, REASON_MAX) if draft.offline else None,
    )


def issuer(draft: Draft) -> Any:
    data = draft.issuer
    return Inf.Emit(
        CNPJ=data.cnpj,
        xNome=printable(data.name, 60),
        IE=data.state_registration,
        CRT=L.EmitCrt(data.tax_regime),
        enderEmit=L.TenderEmi(
            xLgr=printable(data.street, 60),
            nro=printable(data.street_number, 60),
            xBairro=printable(data.district, 60),
            cMun=data.city_code,
            xMun=printable(data.city, 60),
            UF=B.TufEmi(data.uf),
            CEP=data.postal_code,
            cPais=L.TenderEmiCPais(BRAZIL),
            xPais=L.TenderEmiXPais("BRASIL"),
        ),
    )


def buyer(draft: Draft) -> Any:
    """The recipient, or None: an NFC-e need not name one."""
    sale = draft.sale
    if not sale.buyer_document:
        return None
    address = sale.buyer_address
    where = address and L.Tendereco(
        xLgr=printable(address.street, 60),
        nro=printable(address.street_number, 60),
        xBairro=printable(address.district, 60),
        cMun=address.city_code,
        xMun=printable(address.city, 60),
        UF=B.Tuf(address.uf),
        CEP=address.postal_code,
        cPais=BRAZIL,
        xPais="BRASIL",
    )
    number = {"CPF" if len(sale.buyer_document) == 11 else "CNPJ": sale.buyer_document}
    name = TEST_BUYER if draft.is_test else printable(sale.buyer_name, 60) if sale.names_buyer else None
    return Inf.Dest(**number, xNome=name, indIEDest=L.DestIndIedest("9"), enderDest=where)


def _taxes() -> Any:
    """Simples Nacional without credit (CSOSN 102); PIS and COFINS not charged on the document (CST 07)."""
    tax = Inf.Det.Imposto
    return tax(
        ICMS=tax.Icms(ICMSSN102=tax.Icms.Icmssn102(orig=L.Torig("0"), CSOSN=L.Icmssn102Csosn("102"))),
        PIS=tax.Pis(PISNT=tax.Pis.Pisnt(CST=L.PisntCst("07"))),
        COFINS=tax.Cofins(COFINSNT=tax.Cofins.Cofinsnt(CST=L.CofinsntCst("07"))),
    )


def items(draft: Draft) -> list[Any]:
    """The lines, each with its share of the discount or of the charges."""
    sale = draft.sale
    weights = [item.amount for item in sale.items]
    discounts, charges = spread(sale.discount, weights), spread(sale.other_charges, weights)
    lines = zip(sale.items, discounts, charges, strict=True)
    return [_item(draft, place, *line) for place, line in enumerate(lines, start=1)]


def _item(draft: Draft, place: int, item: SaleItem, discount: Decimal, charges: Decimal) -> Any:
    must_say_test = draft.is_test and place == 1
    name = printable(item.name)
    product = Inf.Det.Prod(
        cProd=printable(item.code, 60),
        cEAN="SEM GTIN",
        xProd=TEST_ITEM if must_say_test else name,
        NCM=item.ncm,
        CFOP=item.cfop,
        uCom=item.unit,
        qCom=f"{item.quantity}.0000",
        vUnCom=f"{item.unit_amount:.10f}",
        vProd=money(item.amount),
        cEANTrib="SEM GTIN",
        uTrib=item.unit,
        qTrib=f"{item.quantity}.0000",
        vUnTrib=f"{item.unit_amount:.10f}",
        vDesc=_some(discount),
        vOutro=_some(charges),
        indTot=L.ProdIndTot("1"),
    )
    return Inf.Det(nItem=str(place), prod=product, imposto=_taxes(), infAdProd=name if must_say_test else None)


def totals(draft: Draft) -> Any:
    sale = draft.sale
    zero = dict.fromkeys(NOT_CHARGED, ZERO)
    total = Inf.Total.Icmstot(
        **zero,
        vProd=money(sale.items_amount),
        vDesc=money(sale.discount),
        vOutro=money(sale.other_charges),
        vNF=money(sale.total),
    )
    return Inf.Total(ICMSTot=total)


def payment(draft: Draft) -> Any:
    sale = draft.sale
    # 2: the card was charged by a system that is not wired to the issuing one; then no acquirer data are demanded.
    card = Inf.Pag.DetPag.Card(tpIntegra=L.CardTpIntegra("2")) if sale.payment_code in CARD_PAYMENTS else None
    paid = Inf.Pag.DetPag(indPag=L.DetPagIndPag("0"), tPag=sale.payment_code, vPag=money(sale.total), card=card)
    return Inf.Pag(detPag=[paid])


def assemble(draft: Draft, *, print_format: str, presence: str) -> Any:
    """The whole binding; the NFC-e adds its QR code."""
    return Nfe(
        infNFe=Inf(
            versao="4.00",
            Id=f"NFe{draft.key}",
            ide=head(draft, print_format=print_format, presence=presence),
            emit=issuer(draft),
            dest=buyer(draft),
            det=items(draft),
            total=totals(draft),
            transp=Inf.Transp(modFrete=L.TranspModFrete("9")),
            pag=payment(draft),
            infAdic=Inf.InfAdic(infCpl=f"Pedido {draft.sale.order_id}"),
        )
    )
