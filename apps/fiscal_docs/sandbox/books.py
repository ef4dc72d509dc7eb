"""The sandbox authority's decisions that need its books. Each takes the lock of the counter row first.

So decisions come one after another, as protocols do, and every rule is checked on what was committed.
"""

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from lxml import etree

from apps.fiscal_docs.keys import AccessKey
from apps.fiscal_docs.sandbox import answers
from apps.fiscal_docs.sandbox.models import SandboxCounter, SandboxDocument, SandboxEvent, SandboxVoidedRange
from apps.fiscal_docs.sandbox.rules import CANCEL_WITHIN, CLOCKS_DIFFER, Refusal, find

EVENT_CANCEL = "110111"
THE_COUNTER = 1


@dataclass(frozen=True, slots=True)
class Registered:
    """A decision in favour: its protocol, when, and the exact answer."""

    protocol: str
    answer: bytes


def _lock() -> SandboxCounter:
    SandboxCounter.objects.get_or_create(id=THE_COUNTER)
    return SandboxCounter.objects.select_for_update().get(id=THE_COUNTER)


def _next_protocol(counter: SandboxCounter, uf_code: str, now: datetime) -> str:
    """Fifteen digits: 1, the state, the year, and a number that only grows."""
    number = counter.next_protocol
    counter.next_protocol = number + 1
    counter.save(update_fields=["next_protocol"])
    return f"1{uf_code}{now:%y}{number:010d}"


def authorise(*, key: AccessKey, xml: bytes, digest: str, now: datetime) -> Registered | Refusal:
    with transaction.atomic():
        counter = _lock()
        refusal = _taken(key)
        if refusal:
            return refusal
        protocol = _next_protocol(counter, key.uf_code, now)
        answer = answers.protocol_of(key=str(key), status="100", protocol=protocol, digest=digest, now=now)
        SandboxDocument.objects.create(
            access_key=str(key), cnpj=key.cnpj, kind=key.kind, series=key.series, number=key.number,
            protocol=protocol, received_at=now, xml=xml, answer=answer,
        )  # fmt: skip
        return Registered(protocol, answer)


def _taken(key: AccessKey) -> Refusal | None:
    """The number is used or voided. 204 for the very same key, 539 when another document has the number."""
    same_number = {"cnpj": key.cnpj, "kind": key.kind, "series": key.series}
    twin = SandboxDocument.objects.filter(**same_number, number=key.number).first()
    if twin and twin.access_key == str(key):
        return Refusal("218") if _cancellation(str(key)) else Refusal("204", f"nProt:{twin.protocol}")
    if twin:
        return Refusal("539", f"chNFe:{twin.access_key}")
    voided = SandboxVoidedRange.objects.filter(**same_number, first__lte=key.number, last__gte=key.number).exists()
    return Refusal("206") if voided else None


def _cancellation(access_key: str) -> SandboxEvent | None:
    return SandboxEvent.objects.filter(access_key=access_key, event_type=EVENT_CANCEL).first()


def consult(access_key: str) -> tuple[SandboxDocument | None, SandboxEvent | None]:
    return SandboxDocument.objects.filter(access_key=access_key).first(), _cancellation(access_key)


def cancel(*, event: etree._Element, xml: bytes, now: datetime) -> Registered | Refusal:
    """Register event 110111: known key, once, its protocol, in time."""
    access_key = find(event, "infEvento/chNFe")
    with transaction.atomic():
        counter = _lock()
        document = SandboxDocument.objects.filter(access_key=access_key).first()
        if document is None:
            return Refusal("494")
        if _cancellation(access_key):
            return Refusal("573")
        if find(event, "infEvento/detEvento/nProt") != document.protocol:
            return Refusal("222")
        happened = datetime.fromisoformat(find(event, "infEvento/dhEvento"))
        if happened < document.received_at.replace(microsecond=0):
            return Refusal("579")
        if happened > now + CLOCKS_DIFFER:
            return Refusal("578")
        if now - document.received_at > CANCEL_WITHIN[document.kind]:
            return Refusal("501")
        protocol = _next_protocol(counter, access_key[:2], now)
        answer = answers.event_answer(event, status="135", protocol=protocol, now=now)
        SandboxEvent.objects.create(
            access_key=access_key, event_type=EVENT_CANCEL, seq=int(find(event, "infEvento/nSeqEvento")),
            protocol=protocol, registered_at=now, xml=xml, answer=answer,
        )  # fmt: skip
        return Registered(protocol, answer)


def void(*, request: etree._Element, xml: bytes, now: datetime) -> Registered | Refusal:
    """Declare a range of numbers unused for ever."""
    series = {
        "cnpj": find(request, "infInut/CNPJ"),
        "kind": find(request, "infInut/mod"),
        "series": int(find(request, "infInut/serie")),
    }
    first, last = int(find(request, "infInut/nNFIni")), int(find(request, "infInut/nNFFin"))
    with transaction.atomic():
        counter = _lock()
        if SandboxVoidedRange.objects.filter(**series, first=first, last=last).exists():
            return Refusal("563")
        if SandboxVoidedRange.objects.filter(**series, first__lte=last, last__gte=first).exists():
            return Refusal("256")
        if SandboxDocument.objects.filter(**series, number__range=(first, last)).exists():
            return Refusal("241")
        protocol = _next_protocol(counter, find(request, "infInut/cUF"), now)
        SandboxVoidedRange.objects.create(**series, first=first, last=last, protocol=protocol, registered_at=now, xml=xml)
        return Registered(protocol, b"")
