"""The map of a use case: its numbers are those of the rows, and behind each number are the runs that it counts."""

import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.pages import usecase_map
from apps.backoffice.pages.usecase_map import UseCaseMap, map_of
from apps.saga import public as saga
from apps.saga.models import Run
from tests import factories, worlds

pytestmark = pytest.mark.django_db
CARD = "orders.purchase.card"
PAGE = reverse("admin:backoffice_use_case", args=[CARD])
LIVE = reverse("admin:backoffice_use_case_live", args=[CARD])
PAGE_QUERIES_MAX = 20  # session, user, permissions, badge, pauses, interventions, counts, and three for the map


@pytest.fixture
def evening() -> dict[str, Run]:
    return worlds.busy_evening(now=timezone.now(), completed=12, waiting=7)


def seen(window: str = "1h", measure: str = "waiting") -> UseCaseMap:
    """The map as it is now."""
    return map_of(saga.use_case(CARD), measure=measure, window=window, now=timezone.now())


def behind(client: Client, href: str) -> int:
    """How many runs the list behind a number shows."""
    answer = client.get(href)
    assert answer.status_code == 200, href
    (total,) = re.findall(r"([\d,]+)\+? runs?<", answer.content.decode())
    return int(total.replace(",", ""))


class TestNumbers:
    def test_lead_to_the_runs_that_they_count(self, chief: Client, evening: dict[str, Run]) -> None:
        page = seen()
        looked = 0
        for line in page.lines:
            step = line.facts
            for number, href in (
                (step.ahead.runs, line.href),
                (step.ahead.stuck, line.stuck_href),
                (step.ahead.held, line.held_href),
                (step.errors, line.failed_href),
                (step.refusals, line.refused_href),
                (step.back.runs, line.undo_href),
                (step.undo_errors, line.undo_failed_href),
            ):
                assert behind(chief, href) == number, (step.name, href)
                looked += number
        assert looked > 30

    def test_of_the_promise_lead_to_the_late_and_the_slow(self, chief: Client, evening: dict[str, Run]) -> None:
        promise = seen().promise
        assert promise is not None
        assert behind(chief, promise.slow_href) == promise.slow_now > 0
        assert behind(chief, promise.late_href) == promise.late_now > 0

    def test_of_how_long_it_takes_lead_to_those_who_took_as_long(self, chief: Client, evening: dict[str, Run]) -> None:
        first = seen().lines[0]
        p50, _, p99 = first.whole
        entered = first.facts.pace.entered if first.facts.pace else 0
        assert behind(chief, p50.href) >= entered // 2
        assert 1 <= behind(chief, p99.href) <= 2

    def test_of_the_offence_lead_to_its_runs(self, chief: Client, evening: dict[str, Run]) -> None:
        page = seen()
        assert page.offence.step == "issue_fiscal_doc"
        assert behind(chief, page.offence_href) == 5
        assert page.wait_href == reverse("admin:backoffice_run", args=[evening["long"].pk])

    @pytest.mark.parametrize("took", ["x:nan", "x:-inf", "x:", "x:1e999", "x", ":", "reserve_tickets:99999999999999"])
    def test_that_make_no_sense_are_no_error(self, chief: Client, evening: dict[str, Run], took: str) -> None:
        for query in ({"took": took}, {"at": "\x00"}, {"failed": "undo:"}, {"begun": "for ever"}, {"entered": "nothing"}):
            assert chief.get(reverse("admin:saga_run_changelist"), query).status_code == 200


class TestPage:
    def test_names_the_step_and_the_wait(self, chief: Client, evening: dict[str, Run]) -> None:
        html = unescape(chief.get(PAGE).content.decode()).replace("\u00a0", " ")
        assert "Offending step: issue_fiscal_doc" in html
        assert "Step issue_fiscal_doc holds 5 runs; the longest waits 2 d 0 h for attempt 4, until" in html

    def test_says_what_it_could_not_look_at(
        self, chief: Client, evening: dict[str, Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "that began in the last hour" in chief.get(PAGE).content.decode()
        monkeypatch.setattr("apps.saga.pace.RUNS_MAX", 10)
        usecase_map.forget()
        html = chief.get(PAGE).content.decode().replace("\u00a0", " ")
        assert "the newest 10 runs, of the last" in html
        assert "there are more" in html

    def test_is_calm_when_nothing_happens(self, chief: Client) -> None:
        html = chief.get(PAGE).content.decode()
        assert "No step offends." in html
        assert "Nobody waits." in html

    @pytest.mark.parametrize(
        ("query", "says"),
        [
            ("by=errors&window=7d", ["Errors", "7 d"]),
            ("by=volume", ["Volume", "1 h"]),
            ("by=x&window=y", ["Waiting", "1 h"]),
        ],
    )
    def test_is_seen_as_the_address_says(self, chief: Client, evening: dict[str, Run], query: str, says: list[str]) -> None:
        html = chief.get(f"{PAGE}?{query}").content.decode()
        assert re.findall(r'aria-current="true">([^<]+)<', html) == says

    def test_needs_the_same_few_queries_whatever_there_is(self, chief: Client, evening: dict[str, Run]) -> None:
        counted = []
        for _ in range(2):
            usecase_map.forget()
            chief.get(PAGE)
            usecase_map.forget()
            with CaptureQueriesContext(connection) as captured:
                chief.get(PAGE)
            counted.append(len(captured))
            worlds.busy_evening_goes_on(now=timezone.now())
        assert counted[0] == counted[1] <= PAGE_QUERIES_MAX

    def test_asks_for_its_map_in_three_statements_and_in_one_while_the_times_are_fresh(
        self, evening: dict[str, Run]
    ) -> None:
        state, now = saga.use_case(CARD), timezone.now()
        for expected in (4, 2):
            with CaptureQueriesContext(connection) as captured:
                map_of(state, measure="waiting", window="1h", now=now)
            assert len(captured) == expected

    def test_has_no_style_or_script_of_its_own_in_it(self, chief: Client, evening: dict[str, Run]) -> None:
        parts = chief.get(LIVE).content.decode()
        assert " style=" not in parts
        assert "<style" not in parts
        assert "<script" not in parts
        assert not re.search(r"\son\w+=", parts)


class TestLive:
    def test_answers_who_has_it_already_without_a_body(self, chief: Client) -> None:
        first = chief.get(LIVE)
        assert first.status_code == 200
        assert b"<html" not in first.content
        again = chief.get(LIVE, headers={"If-None-Match": first["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        factories.stuck_run(now=timezone.now())
        changed = chief.get(LIVE, headers={"If-None-Match": first["ETag"]})
        assert changed.status_code == 200
        assert changed["ETag"] != first["ETag"]

    def test_keeps_the_way_it_is_seen(self, chief: Client, evening: dict[str, Run]) -> None:
        html = chief.get(PAGE, {"by": "errors", "window": "24h"}).content.decode()
        (address,) = re.findall(r'data-live-url="([^"]+)"', html)
        assert parse_qs(urlsplit(unescape(address)).query) == {"by": ["errors"], "window": ["24h"]}

    def test_is_for_whoever_may_see_runs(self, newcomer: Client, client: Client) -> None:
        assert newcomer.get(LIVE).status_code == 403
        assert client.get(LIVE).status_code == 302

    def test_of_an_unknown_use_case_is_not_found(self, chief: Client) -> None:
        assert chief.get(reverse("admin:backoffice_use_case_live", args=["no.such"])).status_code == 404
