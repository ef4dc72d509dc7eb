"""Numbering, signing and checking, in the database alone."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.db import IntegrityError, connection, connections, transaction
from django.db.utils import DatabaseError

from apps.fiscal_docs import certificates, keys
from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs.models import BlobKind, Certificate, Document, DocumentBlob, DocumentEvent, Issuer, NumberRange
from apps.fiscal_docs.operations import journal
from apps.fiscal_docs.sandbox.certificates import make_test_a1
from tests.integration.fiscal_docs.conftest import CNPJ, OTHER_CNPJ, Company, ticket_sale

pytestmark = pytest.mark.django_db


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """Run jobs in threads that start together; each closes its own connections. Exceptions are results."""
    start, results = threading.Barrier(len(jobs)), []

    def run(job: Callable[[], Any]) -> None:
        try:
            start.wait(60)
            results.append(job())
        except Exception as error:
            results.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    return results


class TestPrepare:
    def test_numbers_from_one_without_gaps_and_signs(self, company: Company) -> None:
        numbers = [company.prepare(step)["number"] for step in "abc"]
        assert numbers == [1, 2, 3]
        document = journal.read("a")
        assert keys.parse(document.access_key or "").number == 1
        assert journal.content(document, BlobKind.SIGNED)
        assert document.state == "SIGNED"

    def test_returns_the_same_document_when_a_step_repeats(self, company: Company) -> None:
        assert company.prepare("a") == company.prepare("a", total=Decimal("99.00"))
        assert Document.objects.count() == 1

    def test_gives_its_number_back_when_the_commit_fails(self, company: Company) -> None:
        with transaction.atomic():
            fiscal.prepare_issue(step_key="a", sale=ticket_sale(), now=company.now)
            transaction.set_rollback(True)
        assert company.prepare("b")["number"] == 1

    def test_counts_each_kind_by_itself(self, company: Company) -> None:
        company.prepare("a")
        address = fiscal.BuyerAddress(
            street="PRAÇA DA SÉ", street_number="1", district="CENTRO", city_code="3550308", city="SÃO PAULO",
            uf="SP", postal_code="01001000",
        )  # fmt: skip
        nfe = company.prepare(
            "b", kind="55", buyer_document="52998224725", buyer_name="Maria da Silva", buyer_address=address
        )
        assert (nfe["kind"], nfe["number"]) == ("55", 1)

    def test_prints_names_that_the_layout_cannot_say_without_failing(self, company: Company) -> None:
        item = fiscal.SaleItem(code="x", name="Show 🎸\n“Noite” do  Samba", quantity=2, unit_amount=Decimal("5.25"))
        company.prepare("a", items=(item,))
        assert b"<infAdProd>Show ? ?Noite? do Samba</infAdProd>" in (
            journal.content(journal.read("a"), BlobKind.SIGNED) or b""
        )

    def test_outside_a_transaction_is_a_bug_of_the_caller(self, company: Company) -> None:
        from apps.common.transactions import TransactionMisuse

        with pytest.raises(TransactionMisuse):
            fiscal.prepare_issue(step_key="a", sale=ticket_sale(), now=company.now)


@pytest.mark.django_db(transaction=True, available_apps=["apps.fiscal_docs"])
class TestTogether:
    def test_many_issues_get_different_numbers_without_a_gap(self, company: Company) -> None:
        company.prepare("warm")  # loads the bindings once

        def job(step: str) -> Callable[[], Any]:
            return lambda: company.prepare(step)["number"]

        assert sorted(at_once(*[job(f"s{n}") for n in range(12)])) == list(range(2, 14))
        assert NumberRange.objects.get(kind="65").next_number == 14

    def test_go_on_in_the_next_series_when_the_last_numbers_of_one_are_taken(self, company: Company) -> None:
        company.prepare("warm")
        (series,) = NumberRange.objects.filter(kind="65")
        NumberRange.objects.filter(pk=series.pk).update(next_number=keys.NUMBER_MAX - 1)
        for number in (2, 3):
            NumberRange.objects.create(
                issuer=series.issuer,
                environment=series.environment,
                kind="65",
                series=number,
                next_number=keys.NUMBER_MAX - 1 if number == 2 else 1,
            )

        def job(step: str) -> Callable[[], Any]:
            return lambda: (company.prepare(step)["series"], company.prepare(step)["number"])

        last = [keys.NUMBER_MAX - 1, keys.NUMBER_MAX]
        expected = [(1, number) for number in last] + [(2, number) for number in last] + [(3, n) for n in range(1, 5)]
        assert sorted(at_once(*[job(f"s{n}") for n in range(8)]), key=str) == sorted(expected, key=str)

    def test_the_same_step_twice_is_one_document(self, company: Company) -> None:
        company.prepare("warm")
        first, second = at_once(lambda: company.prepare("a"), lambda: company.prepare("a"))
        assert first == second
        assert Document.objects.filter(step_key="a").count() == 1
        assert NumberRange.objects.get(kind="65").next_number == 3

    def test_a_do_and_its_undo_agree_whoever_comes_first(self, company: Company) -> None:
        company.prepare("warm")
        for step in ("a", "b", "c"):
            at_once(
                lambda step=step: company.prepare(step),
                lambda step=step: company.commit(fiscal.undo_prepare, step_key=step),
            )
            facts = company.facts(step)
            assert facts in (["ABANDONED"], ["NUMBERED", "SIGNED", "UNDO_ASKED", "VOID_SIGNED"])


class TestCheck:
    def check(self, company: Company, **changes: Any) -> None:
        company.commit(fiscal.check_can_issue, sale=ticket_sale(**changes))

    def test_passes_the_seeds_example_and_writes_nothing(self, company: Company) -> None:
        self.check(company)
        assert not Document.objects.exists()

    def test_refuses_without_an_issuer(self) -> None:
        with pytest.raises(fiscal.NoIssuer):
            self.check(Company())

    def test_refuses_a_certificate_that_is_out_of_date(self, company: Company) -> None:
        company.now += timedelta(days=366)
        with pytest.raises(fiscal.CertificateUnusable):
            self.check(company)

    def test_refuses_an_issuer_without_a_certificate(self, company: Company) -> None:
        Issuer.objects.update(certificate=None)
        with pytest.raises(fiscal.CertificateUnusable):
            self.check(company)

    def test_refuses_when_the_numbers_are_used_up(self, company: Company) -> None:
        NumberRange.objects.update(next_number=keys.NUMBER_MAX + 1)
        with pytest.raises(fiscal.NoNumberLeft):
            self.check(company)

    def test_refuses_a_state_without_consumer_addresses(self, company: Company) -> None:
        Issuer.objects.update(uf_code="33", uf="RJ")
        with pytest.raises(fiscal.StateNotSupported):
            self.check(company)

    def test_prepare_refuses_the_same(self, company: Company) -> None:
        with pytest.raises(fiscal.SaleNotDocumentable):
            company.prepare("a", total=Decimal("0.00"))
        assert not Document.objects.exists()


class TestTheArchive:
    def test_cannot_be_changed_or_deleted(self, company: Company) -> None:
        company.prepare("a")
        for act in (
            lambda: DocumentEvent.objects.update(status="999"),
            lambda: DocumentEvent.objects.all().delete(),
            lambda: DocumentBlob.objects.update(sha256=""),
            lambda: DocumentBlob.objects.all().delete(),
        ):
            with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
                act()

    def test_notices_bytes_that_were_changed_behind_its_back(self, company: Company) -> None:
        company.prepare("a")
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")  # a superuser can switch triggers off
            cursor.execute("UPDATE fiscal_docs_documentblob SET sha256 = repeat('0', 64)")
            cursor.execute("SET LOCAL session_replication_role = DEFAULT")
        with pytest.raises(journal.ArchiveDamaged):
            journal.content(journal.read("a"), BlobKind.SIGNED)

    def test_refuses_two_documents_with_one_number(self, company: Company) -> None:
        company.prepare("a")
        twin = Document.objects.get()
        twin.pk, twin.step_key, twin._state.adding = keys_uuid(), "b", True
        twin.access_key = str(replace(keys.parse(twin.access_key or ""), code="00000007"))
        with pytest.raises(IntegrityError, match="fiscal_document_number_once"), transaction.atomic():
            twin.save()


def keys_uuid() -> Any:
    from apps.common.clock import uuid7

    return uuid7()


class TestCertificates:
    def test_leave_no_key_and_no_password_in_clear_in_the_database(
        self, company: Company, rsa_key: rsa.RSAPrivateKey
    ) -> None:
        row = Certificate.objects.get()
        stored = bytes(row.pkcs12) + bytes(row.sealed_password)
        der = rsa_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        prime = rsa_key.private_numbers().p.to_bytes(128, "big")
        password = certificates._unseal(bytes(row.sealed_password), row.fingerprint)
        assert len(password) > 30
        for secret in (der, prime, password):
            assert secret not in stored
        assert certificates.identity(row.id).key.private_numbers() == rsa_key.private_numbers()

    def test_do_not_open_with_another_site_key(self, company: Company, settings: Any) -> None:
        row = Certificate.objects.get()
        settings.SECRET_KEY, old = "x" * 50, settings.SECRET_KEY
        with pytest.raises(fiscal.CertificateUnusable):
            certificates._unseal(bytes(row.sealed_password), row.fingerprint)
        settings.SECRET_KEY_FALLBACKS = [old]
        assert certificates._unseal(bytes(row.sealed_password), row.fingerprint)

    @pytest.mark.parametrize(
        ("cnpj", "password", "since"),
        [
            (OTHER_CNPJ, None, timedelta(0)),
            (CNPJ, "wrong", timedelta(0)),
            (CNPJ, None, timedelta(days=-366)),
            (CNPJ, None, timedelta(days=2)),
        ],
        ids=["another company's", "wrong password", "last year's", "not yet valid"],
    )
    def test_are_refused_when_they_cannot_be_used(
        self, company: Company, rsa_key: rsa.RSAPrivateKey, cnpj: str, password: str | None, since: timedelta
    ) -> None:
        pfx, right = make_test_a1(cnpj=cnpj, name="X", now=company.now + since, key=rsa_key)
        with pytest.raises(fiscal.CertificateUnreadable):
            company.commit(fiscal.import_certificate, issuer_cnpj=CNPJ, pkcs12_bytes=pfx, password=password or right)
        assert Certificate.objects.count() == 1

    def test_a_demo_issuer_is_made_once(self, company: Company, rsa_key: rsa.RSAPrivateKey) -> None:
        company.commit(fiscal.create_issuer_with_test_certificate, cnpj=CNPJ, name="X", key=rsa_key)
        assert (Issuer.objects.count(), Certificate.objects.count(), NumberRange.objects.count()) == (1, 1, 2)
