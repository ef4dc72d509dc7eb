"""Documents, issuers and certificates in the back office: to look at. Everything that changes goes through verbs."""

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString
from django.views.decorators.clickjacking import xframe_options_sameorigin
from lxml import etree
from unfold.admin import ModelAdmin, TabularInline

from apps.fiscal_docs import danfe, queries, schemas
from apps.fiscal_docs.keys import grouped
from apps.fiscal_docs.models import Certificate, Document, DocumentEvent, Issuer, NumberRange
from apps.fiscal_docs.operations.journal import ArchiveDamaged
from apps.fiscal_docs.signature import read_xml, verify

CPF_IN_XML = re.compile(r"(<CPF>)\d{6}(\d{3})\d{2}(</CPF>)")


class ReadOnly:
    """Nothing is added, changed or deleted here."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


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


class EventInline(ReadOnly, TabularInline):
    model = DocumentEvent
    fields = readonly_fields = ("happened_at", "fact", "seq", "event_type", "status", "reason", "protocol")
    ordering = ("id",)
    extra = 0


@admin.register(Document)
class DocumentAdmin(ReadOnly, ModelAdmin):
    list_display = ("title", "state", "shown_key", "total", "order_id", "issued_at", "refusal_code")
    list_filter = ("state", "kind", "environment")
    search_fields = ("access_key__startswith", "order_id__exact")
    search_help_text = "An access key or its beginning, or a whole order id"
    ordering = ("-id",)
    show_full_result_count = False
    inlines = (EventInline,)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("state", "protocol", "authorised_at"),
                    ("shown_key", "shown_recipient"),
                    ("total", "order_id", "issued_at"),
                    ("refusal_code", "refusal_reason"),
                )
            },
        ),
        ("XML and PDF", {"fields": ("archive",)}),
    )
    readonly_fields = ("shown_key", "shown_recipient", "archive")

    @admin.display(description="document")
    def title(self, row: Document) -> str:
        return str(row)

    @admin.display(description="access key")
    def shown_key(self, row: Document) -> str:
        return grouped(row.access_key) if row.access_key else "—"

    @admin.display(description="buyer")
    def shown_recipient(self, row: Document) -> str:
        if len(row.recipient) == 11:
            return f"CPF •••.•••.{row.recipient[6:9]}-••"
        return row.recipient or "not named"

    @admin.display(description="")
    def archive(self, row: Document) -> SafeString:
        links = (
            {}
            if not row.access_key
            else {kind: reverse(f"admin:fiscal_docs_document_{kind}", args=[row.pk]) for kind in ("xml", "danfe")}
        )
        return render_to_string("fiscal_docs/admin/archive.html", {"checked": check_archive(row), "links": links})

    def get_urls(self) -> list[URLPattern]:
        own = [
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

    @method_decorator(xframe_options_sameorigin)
    def danfe(self, request: HttpRequest, document_id: UUID) -> HttpResponse:
        """The PDF, drawn now; shown in a frame of the document's page."""
        printed = danfe.render(self._readable(request, document_id))
        if printed is None:
            raise Http404
        response = HttpResponse(printed.content, content_type="application/pdf")
        response["Content-Disposition"] = f'inline; filename="{printed.file_name}"'
        return response


class NumberRangeInline(ReadOnly, TabularInline):
    model = NumberRange
    fields = readonly_fields = ("kind", "environment", "series", "next_number")
    extra = 0


@admin.register(Issuer)
class IssuerAdmin(ReadOnly, ModelAdmin):
    list_display = ("name", "cnpj", "uf", "environment", "certificate", "is_active")
    list_filter = ("is_active", "environment")
    search_fields = ("cnpj__startswith", "name__startswith")
    ordering = ("id",)
    show_full_result_count = False
    inlines = (NumberRangeInline,)


@admin.register(Certificate)
class CertificateAdmin(ReadOnly, ModelAdmin):
    """Whose and until when; never its bytes, never its password."""

    list_display = ("subject", "cnpj", "not_before", "not_after")
    fields = readonly_fields = ("issuer", "subject", "cnpj", "fingerprint", "not_before", "not_after", "created_at")
    search_fields = ("cnpj__startswith", "fingerprint__exact")
    ordering = ("not_after", "id")
    show_full_result_count = False
