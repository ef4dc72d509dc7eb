"""What the sandbox authority checks in a message by itself, without its books. Pure: a document in, a cStat out."""

import base64
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from lxml import etree
from stdnum.br import cpf
from stdnum.exceptions import ValidationError

from apps.fiscal_docs.keys import FORBIDDEN_CODES, NORMAL, OFFLINE, AccessKey, check_digit, cnpj_is_valid
from apps.fiscal_docs.schemas import errors
from apps.fiscal_docs.signature import DS, cnpj_of, verify

NAMESPACE = "http://www.portalfiscal.inf.br/nfe"
CNPJ_BASE = 8
CENT = Decimal("0.01")
TEST_ITEM = "NOTA FISCAL EMITIDA EM AMBIENTE DE HOMOLOGACAO - SEM VALOR FISCAL"
TEST_BUYER = "NF-E EMITIDA EM AMBIENTE DE HOMOLOGACAO - SEM VALOR FISCAL"
# The rule of most states; some allow more, which a table would say.
CANCEL_WITHIN = {"65": timedelta(minutes=30), "55": timedelta(hours=24)}
CLOCKS_DIFFER = timedelta(minutes=5)  # how far ahead of the authority's clock an issuer's may be
# How old an emission may be, and what it is refused with.
EMITTED_WITHIN = {"65": (timedelta(minutes=5), "704"), "55": (timedelta(days=7), "228")}
NCM_CHAPTERS = {f"{chapter:02d}" for chapter in range(1, 98)} - {
    "77"
}  # 77 is kept for the future, 98 and 99 are not used here

TEXTS = {
    "100": "Autorizado o uso da NF-e",
    "101": "Cancelamento de NF-e homologado",
    "102": "Inutilização de número homologado",
    "104": "Lote processado",
    "107": "Serviço em Operação",
    "108": "Serviço Paralisado Momentaneamente (curto prazo)",
    "109": "Serviço Paralisado sem Previsão",
    "128": "Lote de Evento Processado",
    "135": "Evento registrado e vinculado a NF-e",
    "204": "Duplicidade de NF-e",
    "206": "NF-e já está inutilizada na Base de dados da SEFAZ",
    "207": "CNPJ do emitente inválido",
    "208": "CNPJ do destinatário inválido",
    "213": "CNPJ-Base do Emitente difere do CNPJ-Base do Certificado Digital",
    "214": "Tamanho da mensagem excedeu o limite estabelecido",
    "215": "Falha no schema XML",
    "217": "NF-e não consta na base de dados da SEFAZ",
    "218": "NF-e já está cancelada na base de dados da SEFAZ",
    "222": "Protocolo de Autorização de Uso difere do cadastrado",
    "225": "Falha no Schema XML do lote de NFe",
    "237": "CPF do destinatário inválido",
    "228": "Data de Emissão muito atrasada",
    "241": "Um número da faixa já foi utilizado",
    "252": "Ambiente informado diverge do Ambiente de recebimento",
    "253": "Digito Verificador da chave de acesso composta inválida",
    "256": "Uma NF-e da faixa já está inutilizada na Base de dados da SEFAZ",
    "290": "Certificado Assinatura inválido",
    "291": "Certificado Assinatura Data Validade",
    "297": "Assinatura difere do calculado",
    "373": "Descrição do primeiro item diferente de " + TEST_ITEM,
    "394": "Nota Fiscal sem a informação do QR-Code",
    "397": "Parâmetro do QR-Code divergente da Nota Fiscal",
    "452": "Solicitada resposta assíncrona para Lote com somente 1 (uma) NF-e",
    "494": "Chave de Acesso inexistente",
    "501": "Prazo de Cancelamento Superior ao Previsto na Legislação",
    "502": "Campo Id não corresponde à concatenação dos campos correspondentes",
    "537": "Total do Desconto difere do somatório dos itens",
    "539": "Duplicidade de NF-e, com diferença na Chave de Acesso",
    "556": "Justificativa de entrada em contingência não deve ser informada para tipo de emissão normal",
    "557": "A justificativa de entrada em contingência deve ser informada",
    "563": "Já existe pedido de Inutilização com a mesma faixa de inutilização",
    "564": "Total do Produto / Serviço difere do somatório dos itens",
    "573": "Duplicidade de Evento",
    "588": "Não é permitida a presença de caracteres de edição no início/fim da mensagem ou entre as tags da mensagem",
    "578": "A data do evento não pode ser maior que a data do processamento",
    "579": "A data do evento não pode ser menor que a data de autorização para NF-e não emitida em contingência",
    "598": "NF-e emitida em ambiente de homologação com Razão Social do destinatário diferente de " + TEST_BUYER,
    "604": "Total do vOutro difere do somatório dos itens",
    "610": "Total da NF difere do somatório dos Valores compõe o valor Total da NF",
    "629": "Valor do Produto difere do produto Valor Unitário de Comercialização e Quantidade Comercial",
    "703": "Data-Hora de Emissão posterior ao horário de recebimento",
    "704": "NFC-e com Data-Hora de emissão atrasada",
    "778": "Informado NCM inexistente",
    "865": "Total dos pagamentos menor que o total da nota",
    "866": "Ausência de troco quando o valor dos pagamentos informados for maior que o total da nota",
    "897": "Código numérico em formato inválido",
}
REASON_MAX = 255


def reason(status: str, detail: str = "") -> str:
    """xMotivo: the official words, prefixed as a rejection when they are one."""
    text = TEXTS.get(status, "Situação simulada")
    prefix = "Rejeição: " if int(status) >= 200 else ""
    return f"{prefix}{text}{f' [{detail}]' if detail else ''}"[:REASON_MAX]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A cStat with what it is about."""

    status: str
    detail: str = ""


def find(element: etree._Element, path: str) -> str:
    """The text at a path of unprefixed names, or an empty text."""
    return element.findtext("/".join(f"{{{NAMESPACE}}}{name}" for name in path.split("/"))) or ""


def findall(element: etree._Element, path: str) -> list[etree._Element]:
    return element.findall("/".join(f"{{{NAMESPACE}}}{name}" for name in path.split("/")))


def check_schema(xml: bytes, schema: str, status: str) -> Refusal | None:
    wrong = errors(xml, schema)
    return Refusal(status, wrong[0]) if wrong else None


def check_signature(xml: bytes, *, tag: str, cnpj: str, authority: x509.Certificate, now: datetime) -> Refusal | None:
    """The signature holds, its certificate was issued here and is in force, and it is the company's own."""
    found = verify(xml, tag=tag)
    if not found.ok or found.certificate is None:
        return Refusal("297", found.why)
    certificate = found.certificate
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return Refusal("290")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        return Refusal("291")
    return None if cnpj_of(certificate)[:CNPJ_BASE] == cnpj[:CNPJ_BASE] else Refusal("213")


def check_document(xml: bytes, nfe: etree._Element, *, now: datetime) -> Refusal | None:
    """The content of one NF-e or NFC-e whose schema is right."""
    (inf,) = findall(nfe, "infNFe")
    late = _emitted(inf, now)
    if late:
        return late
    checks = (_environment, _key, _contingency, _people, _items, _totals, _payment, _test_words, _qr_code)
    if re.search(rb">\s+<", xml):
        return Refusal("588")
    for check in checks:
        refusal = check(nfe, inf)
        if refusal:
            return refusal
    return None


def key_of(inf: etree._Element) -> AccessKey:
    """The key that the fields of a document make."""
    issued = find(inf, "ide/dhEmi")
    return AccessKey(
        uf_code=find(inf, "ide/cUF"),
        year_month=issued[2:4] + issued[5:7],
        cnpj=find(inf, "emit/CNPJ") or find(inf, "emit/CPF"),
        kind=find(inf, "ide/mod"),
        series=int(find(inf, "ide/serie")),
        number=int(find(inf, "ide/nNF")),
        emission_type=find(inf, "ide/tpEmis"),
        code=find(inf, "ide/cNF"),
    )


def _emitted(inf: etree._Element, now: datetime) -> Refusal | None:
    emitted = datetime.fromisoformat(find(inf, "ide/dhEmi"))
    longest, status = EMITTED_WITHIN[find(inf, "ide/mod")]
    if emitted > now + CLOCKS_DIFFER:
        return Refusal("703")
    if find(inf, "ide/tpEmis") == OFFLINE:
        return None  # handed out already: it is delivered when it can be
    return Refusal(status) if now - emitted > longest else None


def _environment(_nfe: etree._Element, inf: etree._Element) -> Refusal | None:
    return None if find(inf, "ide/tpAmb") == "2" else Refusal("252")


def _key(_nfe: etree._Element, inf: etree._Element) -> Refusal | None:
    stated = (inf.get("Id") or "")[3:]
    if stated[:43] != key_of(inf).base:
        return Refusal("502")
    if find(inf, "ide/cNF") in FORBIDDEN_CODES or int(find(inf, "ide/cNF")) == int(find(inf, "ide/nNF")):
        return Refusal("897")
    right = check_digit(stated[:43])
    return None if stated[43] == right == find(inf, "ide/cDV") else Refusal("253")


def _people(_nfe: etree._Element, inf: etree._Element) -> Refusal | None:
    if not cnpj_is_valid(find(inf, "emit/CNPJ")):
        return Refusal("207")
    person, company = find(inf, "dest/CPF"), find(inf, "dest/CNPJ")
    if company and not cnpj_is_valid(company):
        return Refusal("208")
    try:
        cpf.validate(person or "52998224725")
    except ValidationError:
        return Refusal("237")
    return None


def _items(_nfe: etree._Element, inf: etree._Element) -> Refusal | None:
    for item in findall(inf, "det"):
        place = item.get("nItem") or ""
        ncm = find(item, "prod/NCM")
        if ncm not in ("00", "00000000") and ncm[:2] not in NCM_CHAPTERS:
            return Refusal("778", f"nItem:{place}")
        exact = Decimal(find(item, "prod/qCom")) * Decimal(find(item, "prod/vUnCom"))
        if exact.quantize(CENT, ROUND_HALF_UP) != Decimal(find(item, "prod/vProd")):
            return Refusal("629", f"nItem:{place}")
    return None


def _sum(inf: etree._Element, field: str) -> Decimal:
    return sum((Decimal(find(item, f"prod/{field}") or 0) for item in findall(inf, "det")), Decimal(0))


def _totals(_nfe: etree._Element, inf: etree._Element) -> Refusal | None:
    def total(field: str) -> Decimal:
        return Decimal(find(inf, f"total/ICMSTot/{field}") or 0)

    for field, status in (("vProd", "564"), ("vDesc", "537"), ("vOutro", "604")):
        if total(field) != _sum(inf, field):
            return Refusal(status)
    added = sum(
        (total(field) for field in ("vST", "vFCPST", "vFrete", "vSeg", "vOutro", "vII", "vIPI", "vIPIDevol")), Decimal(0)
    )
    return None if total("vNF") == total("vProd") - total("vDesc") - total("vICMSDeson") + added else Refusal("610")


def _payment(_nfe: etree._Element, inf: etree._Element) -> Refusal | None:
    paid = sum((Decimal(find(entry, "vPag")) for entry in findall(inf, "pag/detPag")), Decimal(0))
    change = Decimal(find(inf, "pag/vTroco") or 0)
    due = Decimal(find(inf, "total/ICMSTot/vNF"))
    if paid - change == due:
        return None
    return Refusal("865") if paid < due else Refusal("866")


def _test_words(_nfe: etree._Element, inf: etree._Element) -> Refusal | None:
    """A test document must say so where people read it."""
    if find(inf, "ide/mod") == "65":
        return None if find(inf, "det/prod/xProd") == TEST_ITEM else Refusal("373")
    return None if find(inf, "dest/xNome") == TEST_BUYER else Refusal("598")


def _qr_code(nfe: etree._Element, inf: etree._Element) -> Refusal | None:
    if find(inf, "ide/mod") != "65":
        return None
    code = find(nfe, "infNFeSupl/qrCode")
    if not code:
        return Refusal("394")
    told = code.partition("?p=")[2]
    parts = [(inf.get("Id") or "")[3:], "3", "2"]
    if find(inf, "ide/tpEmis") != OFFLINE:
        return None if told.split("|") == parts else Refusal("397")
    day, amount = find(inf, "ide/dhEmi")[8:10], find(inf, "total/ICMSTot/vNF")
    person, company = find(inf, "dest/CPF"), find(inf, "dest/CNPJ")
    parts += [day, amount, "2" if person else "1" if company else "", person or company]
    text, _, signature = told.rpartition("|")
    return None if text == "|".join(parts) and _signed_by_issuer(nfe, text, signature) else Refusal("397")


def _signed_by_issuer(nfe: etree._Element, text: str, signature: str) -> bool:
    """By the certificate of the document itself."""
    found = nfe.findtext(f".//{{{DS}}}X509Certificate") or ""
    key = x509.load_der_x509_certificate(base64.b64decode(found)).public_key()
    assert isinstance(key, rsa.RSAPublicKey)  # noqa: S101  # the document's own signature holds
    try:
        key.verify(base64.b64decode(signature), text.encode(), padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
    except (InvalidSignature, ValueError):
        return False
    return True


def _contingency(_nfe: etree._Element, inf: etree._Element) -> Refusal | None:
    """A reason, and since when, stand on documents of a contingency and on no others."""
    told = bool(find(inf, "ide/dhCont")) and bool(find(inf, "ide/xJust"))
    if find(inf, "ide/tpEmis") == NORMAL:
        return Refusal("556") if told else None
    return None if told else Refusal("557")
