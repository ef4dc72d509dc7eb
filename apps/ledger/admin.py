"""The ledger, to look at. Nothing here can be added, changed or deleted: money moves through postings alone."""

import re
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.common.admin import (
    Found,
    Look,
    ReadOnlyAdmin,
    WordsFilter,
    address,
    as_uuid,
    chip,
    column,
    component,
    hinted,
    link,
    moment,
)
from apps.ledger.admin_chain import BlockAdmin as BlockAdmin  # noqa: PLC0414  # Django looks for admins here
from apps.ledger.models import Account, Balance, Branch, Event, Hold, Transaction
from apps.observability.masking import mask_text

_link = partial(link, wraps=True)  # a description is long

SIDES = {(True, True): "debit or credit", (True, False): "debit", (False, True): "credit", (False, False): "neither"}
# "Order <id>": how the journeys call what they post. "<run>:<step>": whose hold it is.
ORDER = re.compile(r"Order ([0-9a-f-]{36})")
STEP_KEY = re.compile(r"([0-9a-f-]{36}):[0-9]+")


LOOKS = {
    "ACTIVE": Look("ok", "ok", "Active"),
    "INACTIVE": Look("idle", "lock", "Inactive"),
    "FROZEN": Look("warn", "lock", "Frozen"),
    "CLOSED": Look("idle", "lock", "Closed"),
    "OPEN": Look("run", "wait", "Open"),
    "POSTED": Look("ok", "ok", "Posted"),
    "VOIDED": Look("undo", "undo", "Voided"),
    "EXPIRED": Look("idle", "clock", "Expired"),
}


def _chip(state: str) -> SafeString:
    return chip(LOOKS[state])


def _money(amount: Decimal | None, currency: str | None) -> SafeString:
    return component("money", amount=amount, currency=currency)


def _amount(amount: Decimal | None) -> SafeString:
    """Debit and credit stand in columns of their own, without the currency's sign."""
    return render_to_string("ledger/admin/amount.html", {"amount": amount})


def _day(day: date) -> str:
    return format_html('<span class="bo-nw">{}</span>', date_format(day, "j M Y"))


def _list(name: str, **filters: Any) -> str:
    return address(f"ledger_{name}_changelist", query=f"?{urlencode(filters)}")


def _list_of(name: str, row: Any, **filters: Any) -> str:
    """The rows of another list that belong to the account of this row."""
    branch = row.branch_id if isinstance(row, Account) else row.branch
    return _list(name, branch__exact=branch, account__exact=row.account, currency__exact=row.currency, **filters)


def _rows(row: Account) -> str:
    names = (("transaction", "Transactions"), ("balance", "Days"), ("hold", "Holds"))
    return format_html(
        '<span class="bo-nw">{} · {} · {}</span>', *[_link(_list_of(name, row), text) for name, text in names]
    )


def _posted(row: Account) -> Decimal:
    return row.posted_credit - row.posted_debit


def _closing(row: Balance) -> Decimal:
    return row.accumulated_credit - row.accumulated_debit


def _entry(key: UUID | None) -> str:
    """A link to the page of an entry."""
    return _link(address("backoffice_entry", key), str(key)[:8], str(key)) if key else "—"


def _described(text: str) -> str:
    """A description; an order that it names is linked."""
    found = ORDER.fullmatch(text)
    key = found[1] if found else ""
    return _link(address("orders_order_change", key), f"Order {key[:8]}…{key[-6:]}", key) if key else mask_text(text) or "—"


def _of_number(branch: str | None, account: str | None) -> str:
    """An account of whom only the number is known: a link to its search."""
    return _link(_list("account", q=f"{branch}/{account}"), f"{branch} · {account}") if account else "—"


def _owner(pk: UUID | None, number: str) -> str:
    """The account of a row; a hold that was voided before it was placed has none."""
    return _link(address("ledger_account_change", pk), number) if pk else "—"


def _event(code: int) -> str:
    known = Event.objects.filter(pk=code).first()
    return _link(address("ledger_event_change", code), str(known)) if known else str(code)


def _run(key: str) -> str:
    found = STEP_KEY.fullmatch(key)
    return _link(address("backoffice_run", found[1]), "Its timeline") if found else "—"


def _short(text: str) -> str:
    shown = text if len(text) <= 20 else f"{text[:8]}…{text[-8:]}"
    return hinted(shown, text)


class AccountStatusFilter(WordsFilter):
    title, parameter_name, field = "status", "status__exact", "status"
    words = {state: LOOKS[state].word for state in Account.Status.values}


class HoldStatusFilter(WordsFilter):
    title, parameter_name, field = "status", "status__exact", "status"
    words = {state: LOOKS[state].word for state in ("OPEN", "POSTED", "VOIDED", "EXPIRED")}


class SideFilter(WordsFilter):
    title, parameter_name, field = "side", "debit_credit__exact", "debit_credit"
    words = {"D": "Debits", "C": "Credits"}


class DayFilter(admin.DateFieldListFilter):
    """Today, the last 7 days, this month, this year."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.title = "day"


class OfAccountAdmin(ReadOnlyAdmin):
    """A list of rows of accounts, searched by whole keys, so that every search is one index look-up."""

    search_fields = ("account",)  # shows the search box; get_search_results decides

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        same = Account.objects.filter(branch=OuterRef("branch"), account=OuterRef("account"), currency=OuterRef("currency"))
        queryset: QuerySet[Any] = super().get_queryset(request).annotate(account_pk=Subquery(same.values("pk")[:1]))
        return queryset

    def by_key(self, text: str) -> Q:
        """What a text that is not branch/account may name."""
        return Q(pk__in=[])

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Found:
        branch, slash, account = search_term.strip().partition("/")
        wanted = Q(branch=branch, account=account) if slash else self.by_key(branch) if branch else Q()
        return queryset.filter(wanted), False

    of_account = column("Account", lambda row: _owner(row.account_pk, f"{row.branch} · {row.account}"))


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    says = "What a posting may be for, and on which side of an account it may stand."
    empty = "No event is defined: nothing can be posted without one."
    list_display = fields = ("code", "description", "state", "sides", "made")
    list_filter = ("active",)
    search_fields = ("description__istartswith",)
    search_help_text = "How a description begins"
    ordering = ("code",)

    state = column("State", lambda row: _chip("ACTIVE" if row.active else "INACTIVE"))
    sides = column("Stands as", lambda row: SIDES[row.allow_debit, row.allow_credit])
    made = column("Created", lambda row: moment(row.created_at))


@admin.register(Branch)
class BranchAdmin(ReadOnlyAdmin):
    says = "Branches: every account belongs to one."
    empty = "There is no branch yet."
    list_display = fields = ("branch", "about", "accounts", "made")
    search_fields = ("branch__startswith",)
    search_help_text = "How a branch begins"
    ordering = ("branch",)

    about = column("Description", lambda row: mask_text(row.description))
    accounts = column("Accounts", lambda row: _link(_list("account", branch__exact=row.pk), "Its accounts"))
    made = column("Created", lambda row: moment(row.created_at))


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    says = "Every account with its balance now. Available is the balance without what is held."
    empty = "There is no account yet."
    list_display = ("number", "about", "state", "money_balance", "money_held", "money_free", "money_floor", "rows")
    list_display_links = ("number",)
    list_filter = (AccountStatusFilter,)
    search_fields = ("account__startswith",)
    search_help_text = "How an account begins, or branch/account"
    ordering = ("branch_id", "account", "currency")
    fields = ("number",)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Found:
        branch, slash, account = search_term.strip().partition("/")
        if slash:
            return queryset.filter(branch_id=branch, account__startswith=account), False
        return queryset.filter(account__startswith=branch), False

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """The page of an account joins what other apps know, so it stands on the floor above: the back office."""
        row = self.get_object(request, object_id)
        if row is None or request.method != "GET" or not self.has_view_permission(request, row):
            answer: HttpResponseBase = super().change_view(request, object_id, form_url, extra_context)
            return answer
        return redirect("admin:backoffice_account", row.branch_id, row.account, row.currency)

    number = column("Account", lambda row: format_html('<span class="bo-nw">{} · {}</span>', row.branch_id, row.account))
    about = column("Description", lambda row: mask_text(row.description))
    state = column("Status", lambda row: _chip(row.status))
    money_balance = column("Balance", lambda row: _money(_posted(row), row.currency))
    money_held = column("Held", lambda row: _money(row.pending_debit, row.currency))
    money_free = column("Available", lambda row: _money(_posted(row) - row.pending_debit, row.currency))
    money_floor = column("Floor", lambda row: "none" if row.min_balance is None else _money(row.min_balance, row.currency))

    rows = column("Rows", _rows)


@admin.register(Transaction)
class TransactionAdmin(OfAccountAdmin):
    says = "Every line, newest first. Lines of one entry share their tracekey, and their debits equal their credits."
    empty = "Nothing was posted yet."
    list_display = ("made", "day", "of_account", "what", "money_debit", "money_credit", "money_after", "entry")
    list_display_links = ("made",)
    list_filter = (SideFilter, ("dateref", DayFilter))
    search_help_text = "A whole id or tracekey, or branch/account"
    ordering = ("-id",)
    fieldsets = (
        ("Line", {"fields": ("of_account", "what", "event", "money_debit", "money_credit", "entry", "id")}),
        ("Right after it", {"fields": ("money_after", "money_held", "money_day")}),
        ("When", {"fields": ("day", "made")}),
        ("Details", {"fields": ("shown_details",)}),
    )

    def by_key(self, text: str) -> Q:
        key = as_uuid(text)
        return Q(id=key) | Q(tracekey=key) if key else Q(pk__in=[])

    made = column("Posted", lambda row: moment(row.created_at))
    day = column("Day", lambda row: _day(row.dateref))
    what = column("What", lambda row: _described(row.description))

    event = column("Event", lambda row: _event(row.event_code))
    money_debit = column("Debit", lambda row: _amount(row.amount if row.debit_credit == "D" else None))
    money_credit = column("Credit", lambda row: _amount(row.amount if row.debit_credit == "C" else None))
    money_after = column("Balance then", lambda row: _money(row.balance_after, row.currency))
    money_held = column("Held then", lambda row: _money(row.pending_after, row.currency))
    money_day = column("Balance of its day", lambda row: _money(row.day_after, row.currency))
    entry = column("Entry", lambda row: _entry(row.tracekey))
    shown_details = column("Details", lambda row: component("json", value=row.details) if row.details else "—")


@admin.register(Balance)
class BalanceAdmin(OfAccountAdmin):
    says = "One row for each account and day with postings: the day's own sums, and the balance at its end."
    empty = "No day has a posting yet."
    list_display = ("day", "of_account", "money_debit", "money_credit", "money_net", "money_balance", "lines")
    list_display_links = ("day",)
    list_filter = (("dateref", DayFilter),)
    search_help_text = "A whole branch/account"
    ordering = ("branch", "account", "currency", "-dateref")
    fields = ("of_account", "day", "money_debit", "money_credit", "money_net", "money_balance", "lines", "changed")

    day = column("Day", lambda row: _day(row.dateref))
    money_debit = column("Debits of the day", lambda row: _amount(row.total_debit))
    money_credit = column("Credits of the day", lambda row: _amount(row.total_credit))
    money_net = column("Net", lambda row: _amount(row.total_credit - row.total_debit))

    money_balance = column("Balance at its end", lambda row: _money(_closing(row), row.currency))
    lines = column("Lines", lambda row: _link(_list_of("transaction", row, dateref__exact=row.dateref), "Its transactions"))
    changed = column("Last change", lambda row: moment(row.updated_at))


@admin.register(Hold)
class HoldAdmin(OfAccountAdmin):
    says = "Money that is reserved and not yet posted. An open hold reduces what is available."
    empty = "Nothing was ever held."
    list_display = ("state", "shown_key", "of_account", "money_amount", "placed", "expires", "ended", "posting")
    list_display_links = ("shown_key",)
    list_filter = (HoldStatusFilter,)
    search_help_text = "A whole key, or branch/account"
    ordering = ("-id",)
    fields = ("state", "key", "of_account", "money_amount", "credited", "posting", "run", "placed", "expires", "ended")

    def by_key(self, text: str) -> Q:
        return Q(key=text)

    state = column("Status", lambda row: _chip(row.status))

    shown_key = column("Key", lambda row: _short(row.key))
    money_amount = column("Amount", lambda row: _money(row.amount, row.currency))
    placed = column("Placed", lambda row: moment(row.created_at))
    expires = column("Expires", lambda row: moment(row.expires_at))
    ended = column("Ended", lambda row: moment(row.ended_at))
    posting = column("Posted as", lambda row: _entry(row.tracekey))

    credited = column("Credited to", lambda row: _of_number(row.credit_branch, row.credit_account))
    run = column("Run", lambda row: _run(row.key))


from apps.ledger import care_admin  # noqa: E402, F401  # it uses the columns above; Django looks for admins here
