"""Who sees to an incident, and until when nobody wants to hear of it.

A silence hides an incident from the badge and from what needs somebody, not from the lists, the metrics or the engine: its
runs are retried, undone and counted as before. It ends by itself, and with the incident.
"""

from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Exists, OuterRef, Q

from apps.common.errors import DomainError, InvalidRequest
from apps.common.transactions import transaction, transaction_required
from apps.saga import audit, incidents
from apps.saga.models import Incident
from apps.saga.selection import UnknownIncident

SILENCE_MAX = timedelta(days=7)  # who wants more quiet than a week handles the cause
NOTE_CHARACTERS_MAX = 200  # one line in the list


class IncidentTaken(DomainError):
    """Somebody else sees to this incident."""

    code = "R576"


class NotYourIncident(DomainError):
    """Only who sees to an incident gives it back."""

    code = "R577"


class IncidentOver(DomainError):
    """The incident is handled: nobody has to see to it."""

    code = "R578"


@transaction
def take(incident: UUID, *, by: str, note: str = "", instead_of: str = "", now: datetime) -> None:
    """See to an incident, perhaps ``instead_of`` who did so far. Safe to repeat.

    ``note``: what is done about it, in a line; a repeat changes it. Raises IncidentTaken, IncidentOver, UnknownIncident.
    """
    note = note.strip()
    if len(note) > NOTE_CHARACTERS_MAX:
        raise InvalidRequest(f"A note has at most {NOTE_CHARACTERS_MAX} characters.", field="note")
    row = _open(incident)
    if row.owner not in ("", by, instead_of):
        raise IncidentTaken(f"{row.owner} sees to it.", field="instead_of")
    if (row.owner, row.owner_note) == (by, note):
        return
    before = row.owner
    row.owned_at = row.owned_at if row.owner == by else now
    row.owner, row.owner_note = by, note
    row.save(update_fields=["owner", "owner_note", "owned_at"])
    _note(row, "take", by=by, reason=note, now=now, instead_of=before if before != by else "")


@transaction
def release(incident: UUID, *, by: str, now: datetime) -> None:
    """Give an incident back: nobody sees to it. Safe to repeat. Raises NotYourIncident, IncidentOver, UnknownIncident."""
    row = _open(incident)
    if not row.owner:
        return
    if row.owner != by:
        raise NotYourIncident(f"{row.owner} sees to it.")
    row.owner, row.owner_note, row.owned_at = "", "", None
    row.save(update_fields=["owner", "owner_note", "owned_at"])
    _note(row, "release", by=by, reason="", now=now)


@transaction
def silence(incident: UUID, *, until: datetime, reason: str, by: str, now: datetime) -> None:
    """Don't call for anybody because of an incident until then, at most SILENCE_MAX from now. A repeat moves the end.

    Raises InvalidRequest, IncidentOver, UnknownIncident.
    """
    why = audit.check_reason(reason)
    if not now < until <= now + SILENCE_MAX:
        raise InvalidRequest(f"A silence ends within {SILENCE_MAX.days} days.", field="until")
    row = _open(incident)
    row.silenced_until, row.silenced_by, row.silenced_reason = until, by, why
    row.save(update_fields=["silenced_until", "silenced_by", "silenced_reason"])
    _note(row, "silence", by=by, reason=why, now=now, until=until.isoformat())


@transaction
def unsilence(incident: UUID, *, by: str, now: datetime) -> None:
    """End a silence early. Safe to repeat. Raises IncidentOver, UnknownIncident."""
    row = _open(incident)
    if row.silenced_until is None:
        return
    row.silenced_until, row.silenced_by, row.silenced_reason = None, "", ""
    row.save(update_fields=["silenced_until", "silenced_by", "silenced_reason"])
    _note(row, "unsilence", by=by, reason="", now=now)


@transaction_required
def _open(incident: UUID) -> Incident:
    """The incident's row, locked. One of a moment ago is not counted yet: then it is now."""
    found = Incident.objects.select_for_update(no_key=True).filter(pk=incident)
    row = found.first()
    if row is None:
        incidents.fold_now()
        row = found.first()
    if row is None:
        raise UnknownIncident
    if row.status != Incident.Status.OPEN:
        raise IncidentOver()
    return row


def _note(row: Incident, action: str, *, by: str, reason: str, now: datetime, **detail: str) -> None:
    told = {"incident": str(row.id), "error_code": row.error_code, **{name: text for name, text in detail.items() if text}}
    audit.note(at=now, actor=by, action=action, use_case=row.use_case, step=row.step, reason=reason, detail=told)


def silenced_runs(*, now: datetime) -> Q:
    """The stuck runs that nobody wants to hear of: those of incidents that are silenced."""
    silent = Incident.objects.filter(
        status=Incident.Status.OPEN,
        silenced_until__gt=now,
        use_case=OuterRef("use_case"),
        step=OuterRef("failed_step"),
        error_code=OuterRef("error_code"),
    )
    return Q(Exists(silent))
