"""Who sees to an incident, and a silence that ends by itself."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.common.errors import InvalidRequest
from apps.observability import metrics
from apps.saga import care, incidents, overview
from apps.saga.incidents import IncidentQuestion, Occurred, incident_id
from apps.saga.metrics import _triage
from apps.saga.models import Audit, Incident, Run
from apps.saga.selection import UnknownIncident
from apps.saga.terms import ErrorClass
from tests import factories

pytestmark = pytest.mark.django_db
ANA, BOB = "user:ana", "user:bob"
NOW = timezone.now()
WHY = "the partner works on it until tomorrow"


@pytest.fixture
def group() -> Incident:
    """One stuck run, and its incident."""
    factories.stuck_run(now=NOW)
    assert incidents.adopt() == 1
    return Incident.objects.get()


def actions() -> list[tuple[str, str]]:
    return list(Audit.objects.order_by("id").values_list("action", "actor"))


class TestTake:
    def test_puts_a_name_on_it_once(self, group: Incident) -> None:
        for _ in range(2):
            care.take(group.id, by=ANA, note=" asks the partner ", now=NOW)
        found = incidents.incident(group.id)
        assert found is not None
        assert (found.owner, found.owner_note, found.owned_at) == (ANA, "asks the partner", NOW)
        assert actions() == [("take", ANA)]

    def test_from_somebody_needs_their_name(self, group: Incident) -> None:
        care.take(group.id, by=ANA, now=NOW)
        with pytest.raises(care.IncidentTaken):
            care.take(group.id, by=BOB, now=NOW)
        care.take(group.id, by=BOB, instead_of=ANA, now=NOW)
        assert Incident.objects.get().owner == BOB
        assert Audit.objects.order_by("id").last().detail["instead_of"] == ANA  # type: ignore[union-attr]

    def test_is_given_back_by_its_owner_alone(self, group: Incident) -> None:
        care.release(group.id, by=ANA, now=NOW)  # nobody has it
        care.take(group.id, by=ANA, now=NOW)
        with pytest.raises(care.NotYourIncident):
            care.release(group.id, by=BOB, now=NOW)
        care.release(group.id, by=ANA, now=NOW)
        assert Incident.objects.get().owner == ""
        assert actions() == [("take", ANA), ("release", ANA)]

    def test_finds_an_incident_of_a_moment_ago(self, db: None) -> None:
        kind = ("orders.purchase.card", "capture_payment", "R999")
        with transaction.atomic():
            incidents.append(
                [
                    Occurred(
                        use_case=kind[0],
                        step=kind[1],
                        error_code=kind[2],
                        error_class=ErrorClass.BUSINESS,
                        detail="no",
                        at=NOW,
                    )
                ]
            )
        care.take(incident_id(*kind), by=ANA, now=NOW)
        assert Incident.objects.get().owner == ANA

    def test_of_nothing_or_of_what_is_handled_is_refused(self, group: Incident) -> None:
        with pytest.raises(UnknownIncident):
            care.take(uuid4(), by=ANA, now=NOW)
        with pytest.raises(InvalidRequest):
            care.take(group.id, by=ANA, note="x" * 201, now=NOW)
        care.take(group.id, by=ANA, now=NOW)
        with transaction.atomic():
            assert incidents.handle(group.id, by=ANA, reason=WHY, now=NOW)
        with pytest.raises(care.IncidentOver):
            care.take(group.id, by=BOB, now=NOW)
        assert Incident.objects.get().owner == "", "whoever opens it again finds nobody's name"


class TestSilence:
    def test_calls_for_nobody_until_it_ends_by_itself(self, group: Incident) -> None:
        assert overview.runs_in_need_count(now=NOW) == 1
        care.silence(group.id, until=NOW + timedelta(hours=1), reason=WHY, by=ANA, now=NOW)
        assert overview.runs_in_need_count(now=NOW) == 0
        assert overview.runs_in_need(now=NOW) == ()
        later = NOW + timedelta(hours=2)
        assert overview.runs_in_need_count(now=later) == 1
        assert len(overview.runs_in_need(now=later)) == 1
        assert Run.objects.filter(overview.in_need("stuck", now=NOW)).count() == 1, "the list behind it has it still"
        for now, silenced, count in ((NOW, True, 1), (NOW, False, 0), (later, True, 0), (later, False, 1)):
            assert len(incidents.incidents(IncidentQuestion(silenced=silenced, now=now), limit=5)) == count

    def test_hides_no_other_trouble(self, group: Incident) -> None:
        other = factories.stuck_run(now=NOW)
        Run.objects.filter(pk=other.pk).update(error_code="R998")
        care.silence(group.id, until=NOW + timedelta(hours=1), reason=WHY, by=ANA, now=NOW)
        assert overview.runs_in_need_count(now=NOW) == 1

    def test_is_moved_and_ended_with_a_note_of_each(self, group: Incident) -> None:
        care.unsilence(group.id, by=ANA, now=NOW)  # it is not silenced
        for hours in (1, 2):
            care.silence(group.id, until=NOW + timedelta(hours=hours), reason=WHY, by=ANA, now=NOW)
        care.unsilence(group.id, by=BOB, now=NOW)
        assert Incident.objects.get().silenced_until is None
        assert actions() == [("silence", ANA), ("silence", ANA), ("unsilence", BOB)]

    @pytest.mark.parametrize("hours", [0, -1, 24 * 8])
    def test_has_an_end_that_is_near(self, group: Incident, hours: int) -> None:
        with pytest.raises(InvalidRequest):
            care.silence(group.id, until=NOW + timedelta(hours=hours), reason=WHY, by=ANA, now=NOW)
        with pytest.raises(InvalidRequest):
            care.silence(group.id, until=NOW + timedelta(hours=1), reason=" ", by=ANA, now=NOW)
        assert actions() == []


class TestMetrics:
    def test_tell_how_many_wait_for_whom_and_what_is_at_risk(self, group: Incident) -> None:
        Run.objects.update(attributes={"amount": "12.50"})
        assert self.incidents() == {"open": 1, "unowned": 1, "silenced": 0}
        care.silence(group.id, until=timezone.now() + timedelta(hours=1), reason=WHY, by=ANA, now=timezone.now())
        assert self.incidents() == {"open": 1, "unowned": 0, "silenced": 1}
        found = {(reading.gauge.name, *reading.labels): reading.value for reading in _triage()}
        assert found[(metrics.SAGA_AT_RISK.name,)] == 12.5
        assert found[metrics.SAGA_ACTION_ITEMS.name, "RUNNING"] == 0

    @staticmethod
    def incidents() -> dict[str, float]:
        return {reading.labels[0]: reading.value for reading in _triage() if reading.gauge is metrics.SAGA_INCIDENTS}
