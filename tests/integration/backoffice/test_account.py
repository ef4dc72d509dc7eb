"""The page of an account and of an entry: who may see and act, what they tell, and that a reversal is posted once."""

import re
from datetime import datetime, time, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.backoffice.pages.account import as_amount
from apps.common.clock import BUSINESS_ZONE, business_date
from apps.ledger import public as ledger
from apps.ledger.models import Transaction
from tests.integration.ledger.conftest import ANA, BOB, CLEARING, fund, line, money, move, open_bank, post

pytestmark = pytest.mark.django_db
WHY = "posted to the wrong customer"
QUERIES_MAX = 16  # session, user and permissions are four of them


def account_url(ref: ledger.AccountRef = ANA, **query: Any) -> str:
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return reverse("admin:backoffice_account", args=list(ref)) + (f"?{text}" if text else "")


def entry_url(posting: ledger.PostResult, page: str = "entry") -> str:
    return reverse(f"admin:backoffice_{page}", args=[posting.tracekey])


def answer_url(posting: ledger.PostResult, word: str) -> str:
    waiting = ledger.waiting_reversal(posting.tracekey, now=timezone.now())
    request_id = waiting.id if waiting else uuid4()
    return reverse(f"admin:backoffice_reversal_{word}", args=[posting.tracekey, request_id])


@pytest.fixture
def moved(db: None) -> ledger.PostResult:
    """100 came to Ana, 30 of it went to Bob; 5 are dated back."""
    now = timezone.now()
    open_bank(now=now - timedelta(days=9))
    post(line(ANA, "C", 100, description="Card sale"), now=now)
    post(line(ANA, "C", 5, dateref=business_date(now) - timedelta(days=2)), now=now)
    return post(move(ANA, BOB, 30, description="Rent"), now=now)


def auditor(*codes: str) -> Client:
    user = User.objects.create_user("auditor", password="a long one", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codes, content_type__app_label="ledger"))
    client = Client()
    client.force_login(user)
    return client


class TestDoors:
    def test_open_for_those_who_may_and_change_nothing(
        self, chief: Client, newcomer: Client, client: Client, moved: ledger.PostResult
    ) -> None:
        before = list(Transaction.objects.order_by("pk").values())
        pages = [
            account_url(),
            account_url(tab="days"),
            account_url(tab="holds"),
            account_url(tab="odd", days="7", side="X", q="%00"),
            reverse("admin:backoffice_account_live", args=list(ANA)),
            entry_url(moved),
            entry_url(moved, "entry_reverse"),
        ]
        for url in pages:
            assert chief.get(url).status_code == 200, url
            assert newcomer.get(url).status_code == 403, url
            assert client.get(url).status_code == 302, url
        assert newcomer.post(entry_url(moved, "entry_reverse"), {"reason": WHY}).status_code == 403
        assert list(Transaction.objects.order_by("pk").values()) == before

    def test_what_is_not_there_is_not_found(self, chief: Client, moved: ledger.PostResult) -> None:
        for url in (
            account_url(ledger.AccountRef("0001", "nobody")),
            account_url(ledger.AccountRef("0001", ANA.account, "USD")),
            reverse("admin:backoffice_entry", args=[uuid4()]),
            reverse("admin:backoffice_entry_reverse", args=[uuid4()]),
        ):
            assert chief.get(url).status_code == 404, url

    @pytest.mark.parametrize(
        "query", [{"from": "2026-13-01"}, {"to": "1969-01-01"}, {"from": "2020-01-01"}, {"after": "odd"}]
    )
    def test_an_odd_question_is_refused_in_words(
        self, chief: Client, moved: ledger.PostResult, query: dict[str, str]
    ) -> None:
        page = chief.get(account_url(**query))
        assert page.status_code == 422
        assert b"This cannot be shown" in page.content

    def test_the_admin_leads_to_them(self, chief: Client, moved: ledger.PostResult) -> None:
        pk = ledger_account_pk()
        page = chief.get(reverse("admin:ledger_account_change", args=[pk]))
        assert page.headers["Location"] == account_url()
        text = chief.get(reverse("admin:ledger_transaction_changelist")).content.decode()
        assert entry_url(moved) in text


def ledger_account_pk() -> Any:
    from apps.ledger.models import Account

    return Account.objects.get(account=ANA.account).pk


class TestStatement:
    def test_shows_what_the_ledger_says(
        self, chief: Client, moved: ledger.PostResult, django_assert_max_num_queries: Any
    ) -> None:
        with django_assert_max_num_queries(QUERIES_MAX):
            page = chief.get(account_url())
        days = page.context["statement"]
        assert [[each.line.running for each in day.lines] for day in days] == [[money(75), money(105)], [money(5)]]
        assert [day.closing for day in days] == [money(75), money(5)]
        assert [day.count.later for day in days] == [0, 1]
        assert page.context["head"].posted == money(75)
        assert page.context["period"].opening == money(0)
        text = page.content.decode()
        assert "dated back" in text
        assert entry_url(moved) in text

    def test_finds_by_amount_key_text_and_side(self, chief: Client, moved: ledger.PostResult) -> None:
        for query, found in (
            ({"q": "30.00"}, 1),
            ({"q": "30,00"}, 1),
            ({"q": str(moved.tracekey)}, 1),
            ({"q": "rent"}, 1),
            ({"q": "100%"}, 0),
            ({"side": "C"}, 2),
        ):
            days = chief.get(account_url(**query)).context["statement"]
            assert sum(len(day.lines) for day in days) == found, query

    def test_goes_on_where_a_page_ends(self, chief: Client, moved: ledger.PostResult, monkeypatch: Any) -> None:
        from apps.backoffice.pages import account

        monkeypatch.setattr(account, "LINES_SHOWN", 1)
        monkeypatch.setattr(account, "DAYS_SHOWN", 1)
        seen, query = [], "tab=statement"
        for _ in range(3):
            page = chief.get(f"{account_url()}?{query}")
            seen += [each.line.running for day in page.context["statement"] for each in day.lines]
            query = page.context["older"]
        assert seen == [money(75), money(105), money(5)]
        assert query == ""
        page = chief.get(account_url(tab="days"))
        assert [day.closing for day in page.context["days"]] == [money(75)]
        page = chief.get(f"{account_url()}?{page.context['older']}")
        assert [(day.opening, day.credit, day.closing) for day in page.context["days"]] == [(money(0), money(5), money(5))]

    @pytest.mark.parametrize(
        ("text", "amount"),
        [
            ("1284.5", "1284.50"),
            ("R$ 1.284,50", "1284.50"),
            ("1,284.50", "1284.50"),
            ("1,284", "1284.00"),
            ("1.284", "1284.00"),
            ("1,284,000", "1284000.00"),
            ("R$ 1.284.000,00", "1284000.00"),
            ("12,5", "12.50"),
            ("1.2345", None),
            ("12,34,56", None),
            ("1.284.50", None),
            ("0", None),
            ("NaN", None),
            ("x", None),
        ],
    )
    def test_reads_an_amount_as_people_write_it(self, text: str, amount: str | None) -> None:
        assert as_amount(text) == (money(amount) if amount else None)


class TestHolds:
    def test_shows_what_is_open_and_what_became_of_the_others(self, chief: Client, moved: ledger.PostResult) -> None:
        now = timezone.now()
        with transaction.atomic():
            for key, expires in (("a", now + timedelta(minutes=10)), ("b", None), ("c", None)):
                ledger.hold(key=key, branch=ANA.branch, account=ANA.account, amount=money(10), expires_at=expires, now=now)
            ledger.void_hold(key="c", now=now)
        page = chief.get(account_url(tab="holds"))
        assert [(hold.key, hold.status) for hold, _ in page.context["all_holds"]] == [
            ("b", "OPEN"),
            ("a", "OPEN"),
            ("c", "VOIDED"),
        ]
        assert [each.left for each in page.context["holds"]] == [None, 10]
        assert page.context["head"].open_holds == 2
        assert chief.get(account_url(tab="holds", after="odd")).status_code == 422
        assert page.context["head"].available == money(55)

    def test_those_that_ended_are_paged(self, chief: Client, moved: ledger.PostResult, monkeypatch: Any) -> None:
        from apps.backoffice.pages import account

        monkeypatch.setattr(account, "HOLDS_SHOWN", 2)
        now = timezone.now()
        for number in range(5):
            with transaction.atomic():
                ledger.hold(key=f"h{number}", branch=ANA.branch, account=ANA.account, amount=money(1), now=now)
                ledger.void_hold(key=f"h{number}", now=now + timedelta(seconds=number // 2))
        seen, query = [], "tab=holds"
        for _ in range(3):
            page = chief.get(f"{account_url()}?{query}")
            seen += [hold.key for hold, _ in page.context["all_holds"]]
            query = page.context["older"]
        assert seen == ["h4", "h3", "h2", "h1", "h0"]
        assert query == ""

    @pytest.mark.parametrize("ended", [0, 1, 3])
    def test_those_that_are_open_are_paged_before_them(
        self, chief: Client, moved: ledger.PostResult, monkeypatch: Any, ended: int
    ) -> None:
        from apps.backoffice.pages import account

        monkeypatch.setattr(account, "HOLDS_SHOWN", 2)
        now = timezone.now()
        for number in range(5 + ended):
            with transaction.atomic():
                ledger.hold(key=f"h{number}", branch=ANA.branch, account=ANA.account, amount=money(1), now=now)
                if number < ended:
                    ledger.void_hold(key=f"h{number}", now=now + timedelta(seconds=number))
        seen, query = [], "tab=holds"
        while query:
            page = chief.get(f"{account_url()}?{query}")
            seen += [hold.key for hold, _ in page.context["all_holds"]]
            query = page.context["older"]
        open_ones = [f"h{number}" for number in range(4 + ended, ended - 1, -1)]
        assert seen == [*open_ones, *(f"h{number}" for number in range(ended - 1, -1, -1))]
        assert chief.get(account_url(tab="holds", after="open:odd")).status_code == 422


class TestReversal:
    def test_is_shown_before_and_posted_once_with_its_reason(self, chief: Client, moved: ledger.PostResult) -> None:
        url = entry_url(moved, "entry_reverse")
        legs = chief.get(url).context["dry"].legs
        assert [(leg.account, leg.debit, leg.credit, leg.after) for leg in legs] == [
            (ANA, None, money(30), money(105)),
            (BOB, money(30), None, money(0)),
        ]
        assert ledger.balance(ANA).posted == money(75)
        for _ in range(2):  # a double click
            assert chief.post(url, {"reason": WHY}).status_code == 302
        assert ledger.balance(ANA).posted == money(105)
        note = LogEntry.objects.get(object_id=str(moved.tracekey))
        assert (note.user.get_username(), note.change_message) == ("chief", WHY)
        text = chief.get(entry_url(moved)).content.decode()
        assert "it was taken back already" in text
        assert WHY in text
        reversal = ledger.entry(moved.tracekey).reversed_by
        text = chief.get(reverse("admin:backoffice_entry", args=[reversal])).content.decode()
        assert "chief" in text
        assert WHY in text
        assert "taken back" in chief.get(account_url()).content.decode()

    def test_without_a_reason_changes_nothing(self, chief: Client, moved: ledger.PostResult) -> None:
        page = chief.post(entry_url(moved, "entry_reverse"), {"reason": " "})
        assert page.status_code == 422
        assert ledger.balance(ANA).posted == money(75)

    def test_that_the_ledger_refuses_is_said_with_its_code(self, chief: Client, moved: ledger.PostResult) -> None:
        post(move(BOB, CLEARING, 20), now=timezone.now())  # Bob has spent it
        url = entry_url(moved, "entry_reverse")
        assert chief.get(url).context["dry"].code == "R103"
        page = chief.post(url, {"reason": WHY})
        assert page.status_code == 409
        assert b"R103" in page.content
        assert ledger.balance(BOB).posted == money(10)
        assert not LogEntry.objects.exists()

    def test_by_somebody_else_is_not_done_again(self, chief: Client, moved: ledger.PostResult) -> None:
        with transaction.atomic():
            ledger.reverse(tracekey=moved.tracekey, reversal_tracekey=uuid4(), now=timezone.now())
        url = entry_url(moved, "entry_reverse")
        assert chief.get(url).context["dry"].code == "R116"
        assert chief.post(url, {"reason": WHY}).status_code == 409
        assert ledger.balance(ANA).posted == money(105)

    def test_stays_a_locked_door_for_who_may_only_look(self, moved: ledger.PostResult) -> None:
        looker = auditor("view_transaction", "view_account")
        assert "you lack the permission" in looker.get(entry_url(moved)).content.decode()
        assert looker.get(entry_url(moved, "entry_reverse")).status_code == 403


class TestSecondPerson:
    @pytest.fixture(autouse=True)
    def four_eyes(self, settings: Any) -> None:
        settings.LEDGER_FOUR_EYES = money(20)

    def test_is_asked_and_agrees(self, chief: Client, moved: ledger.PostResult) -> None:
        page = chief.get(entry_url(moved, "entry_reverse")).content.decode()
        assert "A second person must agree to this amount" in page
        assert chief.post(entry_url(moved, "entry_reverse"), {"reason": WHY}).status_code == 302
        assert ledger.balance(ANA).posted == money(75)
        page = chief.get(entry_url(moved)).content.decode()
        assert "Waits for a second person" in page
        assert "Agree: not to what you asked for yourself" in page
        assert chief.post(answer_url(moved, "agree")).status_code == 302
        assert ledger.balance(ANA).posted == money(75), "chief asked for it"
        second = auditor("view_transaction", "view_account", "add_transaction")
        listed = second.get(reverse("admin:backoffice_approvals"))
        assert WHY in listed.content.decode()
        assert entry_url(moved) in listed.content.decode()
        for _ in range(2):  # a double click
            second.post(answer_url(moved, "agree"))
        assert ledger.balance(ANA).posted == money(105)
        notes = LogEntry.objects.filter(object_id=str(moved.tracekey)).order_by("action_time", "pk")
        assert [(note.user.get_username(), note.change_message) for note in notes] == [
            ("chief", f"asked a second person to take it back: {WHY}"),
            ("auditor", "agreed, and it was taken back"),
        ]
        text = second.get(entry_url(moved)).content.decode()
        assert "Waits for a second person" not in text
        assert "it was taken back already" in text

    def test_refuses_with_a_reason(self, chief: Client, moved: ledger.PostResult) -> None:
        chief.post(entry_url(moved, "entry_reverse"), {"reason": WHY})
        second = auditor("view_transaction", "view_account", "add_transaction")
        url = answer_url(moved, "withdraw")
        second.post(url, {"reason": ""})
        assert ledger.waiting_reversal(moved.tracekey, now=timezone.now()) is not None
        second.post(url, {"reason": "he is right about it"})
        assert ledger.waiting_reversal(moved.tracekey, now=timezone.now()) is None
        assert ledger.balance(ANA).posted == money(75)
        text = chief.get(entry_url(moved)).content.decode()
        assert "did not let it be taken back: he is right about it" in text
        assert "Take back…" in text, "it may be asked for again"

    def test_is_not_asked_twice(self, chief: Client, moved: ledger.PostResult) -> None:
        url = entry_url(moved, "entry_reverse")
        chief.post(url, {"reason": WHY})
        assert "has asked for it" in chief.get(url).content.decode()
        page = chief.post(url, {"reason": "another reason"})
        assert page.status_code == 409
        assert b"R144" in page.content

    def test_is_one_request_when_its_form_is_sent_twice(self, chief: Client, moved: ledger.PostResult) -> None:
        for _ in range(2):
            assert chief.post(entry_url(moved, "entry_reverse"), {"reason": WHY}).status_code == 302
        assert LogEntry.objects.filter(object_id=str(moved.tracekey)).count() == 1

    def test_is_called_by_the_home_page_who_asked_is_not(self, chief: Client, moved: ledger.PostResult) -> None:
        chief.post(entry_url(moved, "entry_reverse"), {"reason": WHY})
        second = auditor("view_transaction", "view_account", "add_transaction")
        home = reverse("admin:index")
        told = "1 reversal waits for a second person"
        assert told in second.get(home).content.decode()
        assert told not in chief.get(home).content.decode()
        second.post(answer_url(moved, "agree"))
        assert told not in second.get(home).content.decode()

    def test_is_not_needed_for_less(self, chief: Client, moved: ledger.PostResult) -> None:
        less = post(move(ANA, BOB, 20), now=timezone.now())
        chief.post(entry_url(less, "entry_reverse"), {"reason": WHY})
        assert ledger.balance(BOB).posted == money(30)

    def test_only_looks_without_the_permission(self, chief: Client, moved: ledger.PostResult) -> None:
        chief.post(entry_url(moved, "entry_reverse"), {"reason": WHY})
        looker = auditor("view_transaction", "view_account")
        text = looker.get(entry_url(moved)).content.decode()
        assert "Waits for a second person" in text
        assert "Agree" not in text
        assert WHY not in looker.get(reverse("admin:backoffice_approvals")).content.decode()
        for word in ("agree", "withdraw"):
            assert looker.post(answer_url(moved, word), {"reason": WHY}).status_code == 403
        assert ledger.balance(ANA).posted == money(75)

    def test_changes_nothing_by_looking(self, chief: Client, moved: ledger.PostResult) -> None:
        chief.post(entry_url(moved, "entry_reverse"), {"reason": WHY})
        second = auditor("view_transaction", "view_account", "add_transaction")
        for word in ("agree", "withdraw"):
            assert second.get(answer_url(moved, word)).status_code == 302
        assert ledger.waiting_reversal(moved.tracekey, now=timezone.now()) is not None


class TestDeferred:
    def test_says_what_waits_to_be_rolled_up(self, chief: Client, moved: ledger.PostResult) -> None:
        now = timezone.now()
        fees = ledger.AccountRef("0001", "FEES")
        with transaction.atomic():
            ledger.open_account(branch=fees.branch, account=fees.account, min_balance=None, deferred=True, now=now)
        posting = post(move(ANA, fees, 3), now=now)
        head = chief.get(account_url(fees)).context["head"]
        assert (head.posted, head.waiting) == (money(3), money(3))
        assert b"rolled up later" in chief.get(entry_url(posting)).content

    def test_a_line_that_is_rolled_up_after_midnight_was_not_dated_back(self, chief: Client, db: None) -> None:
        midnight = datetime.combine(business_date(timezone.now()), time(), BUSINESS_ZONE)
        open_bank(now=midnight - timedelta(days=9))
        fees = ledger.AccountRef("0001", "FEES")
        with transaction.atomic():
            ledger.open_account(branch=fees.branch, account=fees.account, min_balance=None, deferred=True, now=midnight)
        for days_back in (0, 1):
            day = business_date(midnight) - timedelta(days=1 + days_back)
            post(line(fees, "C", 3, dateref=day), now=midnight - timedelta(seconds=1))
        with transaction.atomic():
            ledger.roll_up(now=midnight + timedelta(seconds=1))
        days = chief.get(account_url(fees)).context["statement"]
        assert [(day.count.later, [each.line.back_dated for each in day.lines]) for day in days] == [
            (0, [False]),
            (1, [True]),
        ]

    def test_a_quiet_account_says_so(self, chief: Client, moved: ledger.PostResult) -> None:
        page = chief.get(account_url(CLEARING))
        assert b"Nothing was posted in this period" in page.content
        fund(CLEARING, 1)


class TestArchivedLines:
    def test_are_told_of_where_the_statement_ends(self, chief: Client, moved: ledger.PostResult) -> None:
        from apps.ledger.chain_models import Month

        assert chief.get(account_url()).context["archived"] == ""
        today = business_date(timezone.now())
        Month.objects.create(
            month=today.replace(day=1),
            state="DETACHED",
            lines=4,
            debits=money(30),
            credits=money(135),
            seq_last=4,
            hash=b"",
            path="2026-11.parquet",
            sealed_at=timezone.now(),
            sealed_by="tests",
        )
        page = chief.get(account_url())
        assert "2026-11.parquet" in page.context["archived"]
        assert "2026-11.parquet" in page.content.decode()


class TestFiles:
    def file(self, client: Client, kind: str, **query: str) -> Any:
        return client.get(reverse("admin:backoffice_account_export", args=[*ANA, kind]), query)

    def test_tell_the_period_that_is_shown(self, chief: Client, newcomer: Client, moved: ledger.PostResult) -> None:
        csv, ofx = (self.file(chief, kind) for kind in ("csv", "ofx"))
        assert csv.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert csv.headers["Content-Disposition"].startswith("attachment;")
        rows = b"".join(csv).decode().splitlines()
        assert len(rows) == 4
        assert rows[-1].endswith("75.00")
        assert b"<OFX>" in b"".join(ofx)
        old = b"".join(self.file(chief, "csv", **{"from": "2026-01-01", "to": "2026-01-02"})).decode().splitlines()
        assert len(old) == 1
        assert self.file(newcomer, "csv").status_code == 403
        assert self.file(chief, "pdf").status_code == 404
        assert self.file(chief, "csv", **{"from": "odd"}).status_code == 422
        page = chief.get(account_url()).content.decode()
        assert reverse("admin:backoffice_account_export", args=[*ANA, "ofx"]) in page

    @pytest.mark.parametrize("kind", ["csv", "ofx"])
    def test_hide_what_the_page_hides(self, chief: Client, kind: str, moved: ledger.PostResult) -> None:
        told = "paid by 4111 1111 1111 1111, CPF 390.533.447-05"
        post(line(ANA, "C", 1, description=told), now=timezone.now())
        page, file = chief.get(account_url()).content.decode(), b"".join(self.file(chief, kind)).decode()
        for shown in (page, file):
            assert "****1111" in shown
            assert ".447" in shown
            assert not re.search(r"4111 1111 1111 1111|390.533.447-05", shown)
