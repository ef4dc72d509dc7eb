"""The back office's pages of documents: everything to look at, nothing to change, no secrets."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from apps.fiscal_docs import danfe
from apps.fiscal_docs.models import Certificate, Document, Issuer
from apps.fiscal_docs.operations import journal
from tests.integration.fiscal_docs.conftest import Company

pytestmark = pytest.mark.django_db
HERE = "/admin/fiscal_docs"


@pytest.fixture
def admin(db: None, settings: Any) -> Client:
    settings.SECURE_SSL_REDIRECT = False
    client = Client()
    client.force_login(User.objects.create_superuser("boss", password="x"))
    return client


class TestTheDocumentsPage:
    def test_lists_documents_with_the_key_in_groups_of_four(self, admin: Client, company: Company) -> None:
        made = company.prepare("a")
        page = admin.get(f"{HERE}/document/").content.decode()
        assert made["access_key"][:4] + " " + made["access_key"][4:8] in page
        assert "NFC-e 1/1" in page

    def test_shows_xml_events_checks_and_the_pdf_frame_with_the_cpf_masked(self, admin: Client, company: Company) -> None:
        made = company.prepare("a", buyer_document="52998224725", buyer_name="Maria")
        page = admin.get(f"{HERE}/document/{made['document_id']}/change/").content.decode()
        assert "Signature: valid" in page
        assert "&lt;vNF&gt;10.50&lt;/vNF&gt;" in page
        assert f"{HERE}/document/{made['document_id']}/danfe" in page
        assert "52998224725" not in page
        assert "CPF •••.•••.247-••" in page

    def test_gives_the_exact_xml_and_a_pdf_that_may_be_framed_here(self, admin: Client, company: Company) -> None:
        made = company.prepare("a")
        xml = admin.get(f"{HERE}/document/{made['document_id']}/xml")
        pdf = admin.get(f"{HERE}/document/{made['document_id']}/danfe")
        assert made["access_key"].encode() in xml.content
        assert pdf.content.startswith(b"%PDF")
        assert pdf["X-Frame-Options"] == "SAMEORIGIN"

    def test_shows_a_tombstone_without_files(self, admin: Client, company: Company) -> None:
        from apps.fiscal_docs import public as fiscal

        company.commit(fiscal.undo_prepare, step_key="a")
        document = journal.read("a")
        assert admin.get(f"{HERE}/document/{document.id}/change/").status_code == 200
        assert admin.get(f"{HERE}/document/{document.id}/xml").status_code == 404

    def test_files_need_the_permission_to_view(self, admin: Client, company: Company) -> None:
        made = company.prepare("a")
        clerk = User.objects.create_user("clerk", password="x", is_staff=True)
        admin.force_login(clerk)
        address = f"{HERE}/document/{made['document_id']}/danfe"
        assert admin.get(address).status_code == 403
        clerk.user_permissions.add(Permission.objects.get(codename="view_document"))
        assert admin.get(address).status_code == 200

    @pytest.mark.parametrize("page", ["document", "issuer", "certificate"])
    def test_nothing_can_be_added_or_deleted(self, admin: Client, company: Company, page: str) -> None:
        company.prepare("a")
        row = {"document": Document, "issuer": Issuer, "certificate": Certificate}[page].objects.get()
        assert admin.get(f"{HERE}/{page}/add/").status_code == 403
        assert admin.post(f"{HERE}/{page}/{row.pk}/delete/").status_code == 403
        assert admin.post(f"{HERE}/{page}/{row.pk}/change/", {"name": "x"}).status_code == 403

    def test_a_certificate_shows_whose_and_until_when_and_never_its_bytes(self, admin: Client, company: Company) -> None:
        row = Certificate.objects.get()
        page = admin.get(f"{HERE}/certificate/{row.pk}/change/").content.decode()
        assert row.fingerprint in page
        assert "pkcs12" not in page
        assert "sealed" not in page


class TestDanfe:
    @pytest.mark.parametrize("kind", ["65", "55"])
    def test_is_drawn_for_both_kinds_and_differs_when_cancelled(self, company: Company, kind: str) -> None:
        from apps.fiscal_docs import public as fiscal

        address = fiscal.BuyerAddress(
            street="RUA A",
            street_number="1",
            district="CENTRO",
            city_code="3550308",
            city="SÃO PAULO",
            uf="SP",
            postal_code="01001000",
        )
        company.prepare("a", kind=kind, buyer_document="52998224725", buyer_name="Maria", buyer_address=address)
        document = journal.read("a")
        valid = danfe.render(document)
        document.state = "CANCELLED"
        cancelled = danfe.render(document)
        assert valid
        assert cancelled
        assert valid.content.startswith(b"%PDF")
        assert valid.content != cancelled.content
        assert valid.file_name == f"{document.access_key}-danfe.pdf"
