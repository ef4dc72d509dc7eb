"""The sandbox on the wire: only with a certificate of its own authority, only what is a service."""

import http.client
import ssl
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connections

from apps.fiscal_docs import authority, certificates
from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs.models import BlobKind
from apps.fiscal_docs.operations import journal
from apps.fiscal_docs.sandbox import discovery
from tests.integration.fiscal_docs.conftest import Company

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["apps.fiscal_docs"])  # what it empties afterwards


def get(sandbox: fiscal.RunningSandbox, context: ssl.SSLContext, method: str, path: str) -> int:
    where = urlsplit(sandbox.url)
    connection = http.client.HTTPSConnection(where.hostname or "", where.port, timeout=60, context=context)
    try:
        connection.request(method, path, b"x" if method == "POST" else None)
        return connection.getresponse().status
    finally:
        connection.close()


class TestServer:
    def test_turns_away_a_client_without_a_certificate(self, sandbox: fiscal.RunningSandbox) -> None:
        context = ssl.create_default_context(cafile=discovery.trust_file())
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            get(sandbox, context, "POST", "/ws/NFeStatusServico4.asmx")

    def test_is_not_trusted_by_the_systems_authorities(self, sandbox: fiscal.RunningSandbox) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            get(sandbox, ssl.create_default_context(), "POST", "/ws/NFeStatusServico4.asmx")

    def test_knows_only_its_services(self, sandbox: fiscal.RunningSandbox, company: Company) -> None:
        company.prepare("a")
        own = certificates.identity(journal.read("a").certificate_id)  # type: ignore[arg-type]
        context = authority._context(own, str(discovery.trust_file()))
        assert get(sandbox, context, "POST", "/ws/NothingOfOurs.asmx") == 404
        assert get(sandbox, context, "GET", "/ws/NFeStatusServico4.asmx") == 501

    def test_says_that_it_works(self, sandbox: fiscal.RunningSandbox, company: Company) -> None:
        company.prepare("a")
        certificate_id = journal.read("a").certificate_id
        assert certificate_id
        answer = authority.service_status(certificate_id=certificate_id, uf_code="35", environment="2")
        assert answer.status == "107"

    def test_authorises_once_when_the_same_bytes_arrive_together(
        self, sandbox: fiscal.RunningSandbox, company: Company
    ) -> None:
        company.prepare("a")
        document = journal.read("a")
        signed, statuses = journal.content(document, BlobKind.SIGNED) or b"", []

        def send() -> None:
            try:
                answer = authority.authorise(signed=signed, certificate_id=document.certificate_id)  # type: ignore[arg-type]
                statuses.append(answer.status)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(statuses) == ["100", "204", "204", "204"]


class TestDiscovery:
    def test_another_process_finds_the_announced_address_until_it_stops(self, settings: Any, tmp_path: Any) -> None:
        settings.DATA_DIR = tmp_path
        running = fiscal.start_sandbox()
        assert (tmp_path / "fiscal" / "sandbox_url").read_text() == running.url
        assert authority.base_url() == running.url
        running.stop()
        assert not (tmp_path / "fiscal" / "sandbox_url").exists()

    def test_without_any_authority_nothing_is_sent(self, settings: Any, tmp_path: Any, monkeypatch: Any) -> None:
        settings.DATA_DIR = tmp_path
        monkeypatch.setattr(discovery, "_urls", [])
        with pytest.raises(fiscal.AuthorityUnreachable):
            authority.base_url()
