"""Documents, issuers and certificates in the back office: to look at. Everything that changes goes through verbs."""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.clickjacking import xframe_options_sameorigin
from lxml import etree

from apps.common.admin import (
    Found,
    Look,
    ReadOnlyAdmin,
    ReadOnlyInline,
    WordsFilter,
    address,
    as_uuid,
    chip,
    column,
    component,
    link,
    moment,
    short,
)
from apps.fiscal_docs import queries, schemas
from apps.fiscal_docs.keys import grouped
from apps.fiscal_docs.lifecycle import State
from apps.fiscal_docs.models import Certificate, Document, DocumentEvent, DocumentKind, Environment, Issuer, NumberRange
from apps.fiscal_docs.operations.journal import ArchiveDamaged
from apps.fiscal_docs.signature import read_xml, verify

CPF_IN_XML = re.compile(r"(<CPF>)\d{6}(\d{3})\d{2}(</CPF>)")
CPF_IN_PRINT = re.compile(rb"\b\d{3}\.\d{3}\.(\d{3})-\d{2}\b")
EVENTS_MAX = 200  # a document has about ten; one that is sent again and again must not fill the page
CERTIFICATE_ENDS_SOON = timedelta(days=30)  # enough to buy and install another


FACTS = {
    "NUMBERED": Look("idle", "bar", "Numbered"),
    "SIGNED": Look("idle", "bar", "Signed"),
    "SENT": Look("run", "out", "Sent"),
    "UNKNOWN": Look("unk", "unknown", "No answer"),
    "NOT_DELIVERED": Look("warn", "warn", "Not delivered"),
    "REJECTED": Look("bad", "bad", "Refused"),
    "SIGNED_AGAIN": Look("warn", "edit", "Signed again"),
    "OFFLINE": Look("warn", "out", "Handed out offline"),
    "AUTHORISED": Look("ok", "ok", "Authorised"),
    "UNDO_ASKED": Look("undo", "undo", "Undo asked"),
    "CANCEL_SIGNED": Look("undo", "undo", "Cancellation signed"),
    "CANCEL_SENT": Look("undo", "undo", "Cancellation sent"),
    "CANCEL_DENIED": Look("bad", "bad", "Cancellation denied"),
    "CANCELLED": Look("undo", "undo", "Cancelled"),
    "VOID_SIGNED": Look("undo", "undo", "Voiding signed"),
    "NUMBER_VOIDED": Look("undo", "undo", "Number voided"),
    "ABANDONED": Look("undo", "undo", "Abandoned"),
}
TONES = {"AUTHORISED": "ok", "REJECTED": "bad", "UNKNOWN": "unk", "SENT": "run", "SIGNED": "run", "NUMBERED": "run"}


def _buyer(recipient: str) -> str:
    if len(recipient) == 11:
        return f"CPF •••.•••.{recipient[6:9]}-••"
    return f"CNPJ {_cnpj(recipient)}" if recipient else "not named"


def _cnpj(cnpj: str) -> str:
    return f"{cnpj[:2]}.{cnpj[2:5]}.{cnpj[5:8]}/{cnpj[8:12]}-{cnpj[12:]}" if len(cnpj) == 14 else cnpj


def _key(row: Document) -> str:
    return grouped(row.access_key) if row.access_key else "—"


def _order(row: Document) -> str:
    href = address("orders_order_change", row.order_id) if row.order_id else ""
    return link(href, short(row.order_id or "—"), str(row.order_id))


def _validity(row: Certificate | None) -> SafeString | str:
    """May it still sign? Said before it is too late to get another."""
    if row is None:
        return "none"
    left = row.not_after - timezone.now()
    if left <= timedelta(0):
        return chip(Look("bad", "bad", "Expired"))
    ends_soon = left < CERTIFICATE_ENDS_SOON
    return chip(Look("warn", "warn", f"{left.days} days left") if ends_soon else Look("ok", "ok", "Valid"))


class StateFilter(WordsFilter):
    title, parameter_name, field = "state", "state__exact", "state"
    words = {state.value: state.value.replace("_", " ").capitalize() for state in State}


class KindFilter(WordsFilter):
    title, parameter_name, field = "kind", "kind__exact", "kind"
    words = {kind.value: str(kind.label) for kind in DocumentKind}


class EnvironmentFilter(WordsFilter):
    title, parameter_name, field = "environment", "environment__exact", "environment"
    words = {Environment.PRODUCTION.value: "Production", Environment.HOMOLOGATION.value: "Test (homologation)"}


@dataclass(frozen=True, slots=True)
class Checked:
    """The archived file as a person reads it, and what was checked while reading."""

    pretty: str
    signature: str
    schema: str


def check_archive(document: Document) -> Checked:
    """Read the archive for display: hash, signature and schema are checked anew. CPFs are masked."""
    try:
        xml = queries.legal_xml(document)
    except ArchiveDamaged:
        return Checked("", "the stored bytes were changed", "not checked")
    if xml is None:
        return Checked("", "nothing was signed", "nothing was signed")
    found = verify(xml, tag="infNFe")
    wrong = schemas.errors(xml, schemas.PROC_NFE if b"<nfeProc" in xml else schemas.NFE)
    pretty = etree.tostring(read_xml(xml), pretty_print=True, encoding="unicode")
    return Checked(
        CPF_IN_XML.sub(r"\1•••\2••\3", pretty),
        "valid" if found.ok else found.why,
        f"{document.schema_version} valid" if not wrong else wrong[0],
    )


def print_masked(document: Document, xml: bytes) -> bytes:
    """The DANFE as a screen may show it. Drawn without compression, so that a CPF is replaced at its own length."""
    from brazilfiscalreport.danfce import Danfce, DanfceConfig
    from brazilfiscalreport.danfe import Danfe, DanfeConfig

    cancelled = document.state == State.CANCELLED
    if document.kind == DocumentKind.NFCE:
        drawn = Danfce(xml=xml.decode(), config=DanfceConfig(watermark_cancelled=cancelled))
    else:
        drawn = Danfe(xml=xml.decode(), config=DanfeConfig(watermark_cancelled=cancelled))
    drawn.set_compression(False)
    return CPF_IN_PRINT.sub(rb"***.***.\1-**", bytes(drawn.output()))


@admin.register(Document)
class DocumentAdmin(ReadOnlyAdmin):
    says = "Every fiscal document, newest first: where it stands with the authority, and for which order it was issued."
    empty = "No document yet. The first order that is paid issues one."
    change_form_template = "fiscal_docs/admin/document.html"
    list_display = ("shown_state", "title", "shown_key", "money_total", "order", "issued", "refusal")
    list_display_links = ("title",)
    list_filter = (StateFilter, KindFilter, EnvironmentFilter)
    search_fields = ("access_key__startswith",)  # shows the field; get_search_results decides
    search_help_text = "An access key or its beginning, or a whole order id"
    ordering = ("-id",)
    fields = ("title",)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Found:
        text = search_term.strip()
        if not text:
            return queryset, False
        order = as_uuid(text)
        wanted = Q(order_id=order) if order else Q(access_key__startswith=re.sub(r"\s", "", text).upper())
        return queryset.filter(wanted), False

    shown_state = column("State", lambda row: component("chip", kind="document", state=row.state))
    title = column(
        "Document", lambda row: format_html('<span class="bo-nw">{}</span>', str(row) if row.number else "never issued")
    )
    shown_key = column(
        "Access key",
        lambda row: format_html('<span class="bo-mono" style="display:block;text-wrap:balance">{}</span>', _key(row)),
    )
    money_total = column("Total", lambda row: component("money", amount=row.total, currency="BRL"))
    order = column("Order", _order)
    issued = column("Issued", lambda row: moment(row.issued_at))
    refusal = column("Refusal", lambda row: f"{row.refusal_code}: {row.refusal_reason}" if row.refusal_code else "—")

    def page(self, row: Document) -> dict[str, Any]:
        files = ("xml", "danfe") if row.access_key else ()
        links = {kind: reverse(f"admin:fiscal_docs_document_{kind}", args=[row.pk]) for kind in files}
        run = as_uuid(row.step_key.partition(":")[0])  # "<run>:<step>"
        return {
            "tone": TONES.get(row.state, "undo"),
            "shown_key": _key(row),
            "buyer": _buyer(row.recipient),
            "issuer_name": row.issuer.name if row.issuer else _cnpj(row.issuer_cnpj),
            "issuer_href": address("fiscal_docs_issuer_change", row.issuer_id) if row.issuer_id else "",
            "order": _order(row),
            "payments_href": address("payments_payment_changelist", query=f"?q={row.order_id}") if row.order_id else "",
            "run_href": address("backoffice_run", run) if run and row.order_id else "",
            "links": links,
            "archive": self._archive(row, links),
            # Leads on to the run, while that is not over.
            "settle_href": address("backoffice_order_document", row.order_id) if row.state in queries.UNSETTLED else "",
            "files": self._files(row),
            "events": [
                {"event": event, "look": FACTS[event.fact]}
                for event in DocumentEvent.objects.filter(document=row).order_by("id")[:EVENTS_MAX]
            ],
        }

    def _archive(self, row: Document, links: dict[str, str]) -> SafeString:
        receipt = row.kind == DocumentKind.NFCE
        context = {"checked": check_archive(row), "links": links, "receipt": receipt}
        return render_to_string("fiscal_docs/admin/archive.html", context)

    def _files(self, row: Document) -> list[tuple[queries.File, str]]:
        try:
            return [
                (each, reverse("admin:fiscal_docs_document_file", args=[row.pk, each.id])) for each in queries.files(row)
            ]
        except ArchiveDamaged:
            return []  # the archive above says so

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(
                "<uuid:document_id>/files/<uuid:file_id>",
                self.admin_site.admin_view(self.file),
                name="fiscal_docs_document_file",
            ),
            path("<uuid:document_id>/xml", self.admin_site.admin_view(self.xml), name="fiscal_docs_document_xml"),
            path("<uuid:document_id>/danfe", self.admin_site.admin_view(self.danfe), name="fiscal_docs_document_danfe"),
        ]
        return own + super().get_urls()  # type: ignore[no-any-return]

    def _readable(self, request: HttpRequest, document_id: UUID) -> Document:
        document = Document.objects.filter(pk=document_id).first()
        if not self.has_view_permission(request, document):
            raise PermissionDenied
        if document is None or not document.access_key:
            raise Http404
        return document

    def xml(self, request: HttpRequest, document_id: UUID) -> HttpResponse:
        """The exact bytes, to save."""
        document = self._readable(request, document_id)
        response = HttpResponse(queries.legal_xml(document) or b"", content_type="application/xml")
        response["Content-Disposition"] = f'attachment; filename="{document.access_key}.xml"'
        return response

    def file(self, request: HttpRequest, document_id: UUID, file_id: UUID) -> HttpResponse:
        """The exact bytes of one file: of an attempt that was refused, of an answer."""
        content = queries.file(self._readable(request, document_id), file_id)
        if content is None:
            raise Http404
        response = HttpResponse(content, content_type="application/xml")
        response["Content-Disposition"] = f'attachment; filename="{file_id}.xml"'
        return response

    @method_decorator(xframe_options_sameorigin)
    def danfe(self, request: HttpRequest, document_id: UUID) -> HttpResponse:
        """The PDF, drawn now; shown in a frame of the document's page. Unlike the file of the API it masks the CPF."""
        document = self._readable(request, document_id)
        xml = queries.legal_xml(document)
        if xml is None:
            raise Http404
        response = HttpResponse(print_masked(document, xml), content_type="application/pdf")
        response["Content-Disposition"] = f'inline; filename="{document.access_key}-danfe.pdf"'
        return response


class NumberRangeInline(ReadOnlyInline):
    model = NumberRange
    fields = readonly_fields = ("kind", "environment", "series", "next_number")
    verbose_name_plural = "next numbers"


@admin.register(Issuer)
class IssuerAdmin(ReadOnlyAdmin):
    says = "The companies in whose name documents are issued, with the certificate that signs for them."
    empty = "No company issues documents yet."
    list_display = ("name", "shown_cnpj", "place", "shown_environment", "certificate_state", "until", "state")
    list_filter = (EnvironmentFilter, "is_active")
    list_select_related = ("certificate",)
    search_fields = ("cnpj__startswith", "name__startswith")
    search_help_text = "How a CNPJ (without dots) or a name begins"
    ordering = ("id",)
    inlines = (NumberRangeInline,)
    fieldsets = (
        ("Company", {"fields": ("name", "shown_cnpj", "state_registration", "tax_regime", "state")}),
        ("Where it is", {"fields": ("street_line", "place", "postal_code", "city_code")}),
        ("Issues", {"fields": ("shown_environment", "certificate", "certificate_state", "until", "made")}),
    )
    readonly_fields = (*("shown_cnpj", "state", "street_line", "place", "certificate_state", "until", "made"),)

    shown_cnpj = column("CNPJ", lambda row: format_html('<span class="bo-nw">{}</span>', _cnpj(row.cnpj)))
    place = column("City", lambda row: f"{row.city}, {row.uf}")
    street_line = column("Street", lambda row: f"{row.street}, {row.street_number}, {row.district}")
    shown_environment = column("Environment", lambda row: EnvironmentFilter.words[row.environment])
    certificate_state = column("May sign", lambda row: _validity(row.certificate))
    until = column("Certificate until", lambda row: moment(row.certificate.not_after if row.certificate else None))
    state = column(
        "State", lambda row: chip(Look("ok", "ok", "Active") if row.is_active else Look("idle", "lock", "Inactive"))
    )
    made = column("Created", lambda row: moment(row.created_at))


@admin.register(Certificate)
class CertificateAdmin(ReadOnlyAdmin):
    """Whose and until when; never its bytes, never its password."""

    says = "Whose each certificate is, and until when it signs. Its bytes and its password are never shown."
    empty = "No certificate is installed: nothing can be signed."
    list_display = ("state", "common_name", "shown_cnpj", "issued_to", "since", "until")
    list_display_links = ("common_name",)
    list_select_related = ("issuer",)
    search_fields = ("cnpj__startswith", "fingerprint__exact")
    search_help_text = "How a CNPJ begins, or a whole SHA-256 fingerprint"
    ordering = ("not_after", "id")
    fields = ("state", "subject", "shown_cnpj", "issued_to", "fingerprint", "since", "until", "made")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Certificate]:
        queryset: QuerySet[Certificate] = super().get_queryset(request)
        return queryset.defer("pkcs12", "sealed_password")

    state = column("State", _validity)
    common_name = column("Certificate", lambda row: row.subject.split(",")[0].removeprefix("CN=").partition(":")[0])
    shown_cnpj = column("CNPJ", lambda row: format_html('<span class="bo-nw">{}</span>', _cnpj(row.cnpj)))
    issued_to = column("Company", lambda row: link(address("fiscal_docs_issuer_change", row.issuer_id), row.issuer.name))
    since = column("Valid from", lambda row: moment(row.not_before))
    until = column("Valid until", lambda row: moment(row.not_after))
    made = column("Installed", lambda row: moment(row.created_at))
