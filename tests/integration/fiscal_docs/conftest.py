"""A company with a certificate, a sale, and a real sandbox authority on loopback mutual TLS."""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from django.db import transaction
from django.db.models import Model

from apps.common.clock import uuid7
from apps.fiscal_docs import public as fiscal
from apps.fiscal_docs.models import Certificate, Issuer, NumberRange
from apps.fiscal_docs.operations import journal

CNPJ = "11222333000181"
OTHER_CNPJ = "33014556000196"
ALPHANUMERIC_CNPJ = "12ABC34501DE35"


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    """One key for every certificate of the session: making one costs 70 ms."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def sandbox(running_sandbox: fiscal.RunningSandbox) -> Iterator[fiscal.RunningSandbox]:
    yield running_sandbox
    running_sandbox.faults.clear()
    running_sandbox.set_clock()


def ticket_sale(**changes: Any) -> fiscal.SaleToDocument:
    """The seed's example: one ticket of 200.00, for which the customer pays 10.50."""
    item = fiscal.SaleItem(code="day-one", name="day-one", quantity=1, unit_amount=Decimal("200.00"))
    sale = fiscal.SaleToDocument(order_id=uuid7(), items=(item,), total=Decimal("10.50"))
    return replace(sale, **changes)


@dataclass
class Company:
    """An issuer, and the verbs of a saga's step as an engine would call them: each in its own commit, or in none."""

    cnpj: str = CNPJ
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def commit(self, verb: Callable[..., Any], **arguments: Any) -> Any:
        with transaction.atomic():
            return verb(**arguments, now=self.now)

    def prepare(self, step_key: str, **changes: Any) -> dict[str, Any]:
        return self.commit(fiscal.prepare_issue, step_key=step_key, sale=ticket_sale(issuer_cnpj=self.cnpj, **changes))

    def transmit(self, step_key: str) -> dict[str, Any]:
        return fiscal.transmit(step_key=step_key, now=self.now)

    def retry(self, step_key: str, *, ask: bool = True, instead_of: int | None = None, **changes: Any) -> dict[str, Any]:
        """As a step that is tried again does: ask by key, and send when the authority knows nothing, signed anew."""
        found = fiscal.ask_authority(step_key=step_key, now=self.now) if ask else None
        if found is None:
            order_id = journal.read(step_key).order_id
            sale = ticket_sale(issuer_cnpj=self.cnpj, order_id=order_id, **changes)
            correction = fiscal.Correction(
                sale=sale, actor="user:ana", reason="The catalogue was mended.", instead_of=instead_of
            )
            found = fiscal.transmit(step_key=step_key, now=self.now, again=lambda: correction)
        return self.record(step_key, found)

    def record(self, step_key: str, outcome: dict[str, Any]) -> dict[str, Any]:
        return self.commit(fiscal.record_issue, step_key=step_key, outcome=outcome)

    def issue(self, step_key: str, **changes: Any) -> dict[str, Any]:
        self.prepare(step_key, **changes)
        return self.record(step_key, self.transmit(step_key))

    def cancel(self, step_key: str) -> dict[str, Any]:
        self.commit(fiscal.prepare_cancel, step_key=step_key)
        return self.commit(fiscal.record_cancel, step_key=step_key, outcome=fiscal.cancel(step_key=step_key, now=self.now))

    def undo(self, step_key: str) -> dict[str, Any]:
        self.commit(fiscal.undo_prepare, step_key=step_key)
        outcome = fiscal.undo_call(step_key=step_key, now=self.now)
        self.commit(fiscal.undo_record, step_key=step_key, outcome=outcome)
        return outcome

    def state(self, step_key: str) -> str:
        document = fiscal.document_of(step_key=step_key)
        assert document is not None
        return document.state

    def facts(self, step_key: str) -> list[str]:
        events = journal.read(step_key).events.order_by("id")
        return [event.fact for event in events]


_founded: dict[tuple[str, int], list[Model]] = {}  # rows of companies made before with a key, as they were then


def found(cnpj: str, key: rsa.RSAPrivateKey) -> Company:
    """A company as the public verb makes it. Later tests get the same rows again: sealing a certificate costs 0.2 s."""
    company = Company(cnpj)
    made = (cnpj, key.public_key().public_numbers().n)
    if made in _founded:
        with transaction.atomic():
            for row in _founded[made]:
                copy(row).save(force_insert=True)
        return company
    company.commit(fiscal.create_issuer_with_test_certificate, cnpj=cnpj, name="BILHETERIA EXEMPLO LTDA", key=key)
    issuer = Issuer.objects.get(cnpj=cnpj)
    _founded[made] = [issuer, *Certificate.objects.filter(issuer=issuer), *NumberRange.objects.filter(issuer=issuer)]
    return company


@pytest.fixture
def company(rsa_key: rsa.RSAPrivateKey, db: None) -> Company:
    return found(CNPJ, rsa_key)
