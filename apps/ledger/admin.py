"""The ledger, to look at. Nothing here can be added, changed or deleted: money moves through postings alone."""

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.db.models import Model, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.paginator import InfinitePaginator

from apps.ledger.models import Account, Balance, Branch, Event, Hold, Transaction

Found = tuple[QuerySet[Any], bool]

LINES_SHOWN = 20  # on an account's page: a screen of the statement; the rest is one click away
DAYS_SHOWN = 10  # same
SIDES = {(True, True): "debit or credit", (True, False): "debit", (False, True): "credit", (False, False): "neither"}
# "Order <id>": how the journeys call what they post. "<run>:<step>": whose hold it is.
ORDER = re.compile(r"Order ([0-9a-f-]{36})")
STEP_KEY = re.compile(r"([0-9a-f-]{36}):[0-9]+")


class Look(NamedTuple):
    """Colours, icon and word of a state, as the back office's chip takes them."""

    tone: str
    icon: str
    word: str


LOOKS = {
    "ACTIVE": Look("ok", "ok", "Active"),
    "INACTIVE": Look("idle", "lock", "Inactive"),
    "FROZEN": Look("warn", "lock", "Frozen"),
    "OPEN": Look("run", "wait", "Open"),
    "POSTED": Look("ok", "ok", "Posted"),
    "VOIDED": Look("undo", "undo", "Voided"),
    "EXPIRED": Look("idle", "clock", "Expired"),
}


def _chip(state: str) -> SafeString:
    return render_to_string("ledger/admin/chip.html", {"look": LOOKS[state]})


def _component(name: str, **context: Any) -> SafeString:
    return render_to_string(f"components/{name}.html", context)


def _money(amount: Decimal | None, currency: str | None) -> SafeString:
    return _component("money", amount=amount, currency=currency)


def _amount(amount: Decimal | None) -> SafeString:
    """Debit and credit stand in columns of their own, without the currency's sign."""
    return render_to_string("ledger/admin/amount.html", {"amount": amount})


def _moment(at: Any) -> SafeString:
    return _component("moment", at=at)


def _day(day: date) -> str:
    return format_html('<span class="bo-nw">{}</span>', date_format(day, "j M Y"))


def _address(page: str, *args: Any) -> str:
    """A page by its name, perhaps of another app; empty when it is not there."""
    try:
        return reverse(f"admin:{page}", args=args)
    except NoReverseMatch:
        return ""


def _link(address: str, text: str, title: str = "") -> str:
    return format_html('<a class="bo-l" href="{}" title="{}">{}</a>', address, title, text) if address else text


def _list(name: str, **filters: Any) -> str:
    return f"{reverse(f'admin:ledger_{name}_changelist')}?{urlencode(filters)}"


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
    """A link to all lines of an entry."""
    return _link(_list("transaction", tracekey__exact=key), str(key)[:8], str(key)) if key else "—"


def _described(text: str) -> str:
    """A description; an order that it names is linked."""
    found = ORDER.fullmatch(text)
    key = found[1] if found else ""
    return _link(_address("orders_order_change", key), f"Order {key[:8]}…{key[-6:]}", key) if key else text or "—"


def _of_number(branch: str | None, account: str | None) -> str:
    """An account of whom only the number is known: a link to its search."""
    return _link(_list("account", q=f"{branch}/{account}"), f"{branch} · {account}") if account else "—"


def _owner(pk: UUID | None, number: str) -> str:
    """The account of a row; a hold that was voided before it was placed has none."""
    return _link(_address("ledger_account_change", pk), number) if pk else "—"


def _event(code: int) -> str:
    known = Event.objects.filter(pk=code).first()
    return _link(_address("ledger_event_change", code), str(known)) if known else str(code)


def _run(key: str) -> str:
    found = STEP_KEY.fullmatch(key)
    return _link(_address("backoffice_run", found[1]), "Its timeline") if found else "—"


def _short(text: str) -> str:
    shown = text if len(text) <= 20 else f"{text[:8]}…{text[-8:]}"
    return format_html('<span class="bo-nw" title="{}">{}</span>', text, shown)


def _column(title: str, show: Callable[[Any], Any]) -> Any:
    """A column, or a line of a page, that shows something of a row."""

    @admin.display(description=title)
    def shown(_admin: ModelAdmin, row: Any) -> Any:
        return show(row)

    return shown


class WordsFilter(admin.SimpleListFilter):
    """Rows with one value, which the list calls by its word. It reads no table."""

    field = ""
    words: dict[str, str] = {}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(self.words.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        return queryset.filter(**{self.field: self.value()}) if self.value() in self.words else queryset


class AccountStatusFilter(WordsFilter):
    title, parameter_name, field = "status", "status__exact", "status"
    words = {state: LOOKS[state].word for state in ("ACTIVE", "FROZEN")}


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


class ReadOnlyAdmin(ModelAdmin):
    """A list and a page for each row, without any way to write. ``says`` stands over the list."""

    change_list_template = "ledger/admin/list.html"
    list_per_page = 50
    paginator = InfinitePaginator
    show_full_result_count = False  # a count reads the whole table
    show_facets = admin.ShowFacets.NEVER  # facets count whole tables
    sortable_by = ()  # in the order of an index: any other sorts the whole table
    says = ""
    empty = ""

    def _never(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    # Fields of a page that nobody may change need no readonly_fields: Django takes all of them for that.
    has_add_permission = has_change_permission = has_delete_permission = _never


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

    of_account = _column("Account", lambda row: _owner(row.account_pk, f"{row.branch} · {row.account}"))


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    says = "What a posting may be for, and on which side of an account it may stand."
    empty = "No event is defined: nothing can be posted without one."
    list_display = fields = ("code", "description", "state", "sides", "made")
    list_filter = ("active",)
    search_fields = ("description__istartswith",)
    search_help_text = "How a description begins"
    ordering = ("code",)

    state = _column("State", lambda row: _chip("ACTIVE" if row.active else "INACTIVE"))
    sides = _column("Stands as", lambda row: SIDES[row.allow_debit, row.allow_credit])
    made = _column("Created", lambda row: _moment(row.created_at))


@admin.register(Branch)
class BranchAdmin(ReadOnlyAdmin):
    says = "Branches: every account belongs to one."
    empty = "There is no branch yet."
    list_display = fields = ("branch", "description", "accounts", "made")
    search_fields = ("branch__startswith",)
    search_help_text = "How a branch begins"
    ordering = ("branch",)

    accounts = _column("Accounts", lambda row: _link(_list("account", branch__exact=row.pk), "Its accounts"))
    made = _column("Created", lambda row: _moment(row.created_at))


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    says = "Every account with its balance now. Available is the balance without what is held."
    empty = "There is no account yet."
    change_form_template = "ledger/admin/account.html"
    list_display = ("number", "description", "state", "money_balance", "money_held", "money_free", "money_floor", "rows")
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

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any) -> Any:
        more = self._page(options["obj"]) if options.get("obj") else {}
        return super().render_change_form(request, context | more, *args, **options)

    def _page(self, row: Account) -> dict[str, Any]:
        same = {"branch": row.branch_id, "account": row.account, "currency": row.currency}
        lines = Transaction.objects.filter(**same).order_by("-dateref", "-seq")[:LINES_SHOWN]
        days = Balance.objects.filter(**same).order_by("-dateref")[:DAYS_SHOWN]
        holds = Hold.objects.filter(**same, status=Hold.Status.OPEN).order_by("-created_at")[:LINES_SHOWN]
        return {
            "look": LOOKS[row.status],
            "balance": _posted(row),
            "available": _posted(row) - row.pending_debit,
            "links": {f"{name}s": _list_of(name, row) for name in ("transaction", "balance", "hold")},
            "lines": [{"row": line, "href": _address("ledger_transaction_change", line.pk)} for line in lines],
            "days": [{"row": day, "net": day.total_credit - day.total_debit, "closing": _closing(day)} for day in days],
            "holds": [{"row": hold, "href": _address("ledger_hold_change", hold.pk)} for hold in holds],
        }

    number = _column("Account", lambda row: format_html('<span class="bo-nw">{} · {}</span>', row.branch_id, row.account))
    state = _column("Status", lambda row: _chip(row.status))
    money_balance = _column("Balance", lambda row: _money(_posted(row), row.currency))
    money_held = _column("Held", lambda row: _money(row.pending_debit, row.currency))
    money_free = _column("Available", lambda row: _money(_posted(row) - row.pending_debit, row.currency))
    money_floor = _column("Floor", lambda row: "none" if row.min_balance is None else _money(row.min_balance, row.currency))

    rows = _column("Rows", _rows)


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
        try:
            return Q(id=UUID(text)) | Q(tracekey=UUID(text))
        except ValueError:
            return Q(pk__in=[])

    made = _column("Posted", lambda row: _moment(row.created_at))
    day = _column("Day", lambda row: _day(row.dateref))
    what = _column("What", lambda row: _described(row.description))

    event = _column("Event", lambda row: _event(row.event_code))
    money_debit = _column("Debit", lambda row: _amount(row.amount if row.debit_credit == "D" else None))
    money_credit = _column("Credit", lambda row: _amount(row.amount if row.debit_credit == "C" else None))
    money_after = _column("Balance then", lambda row: _money(row.balance_after, row.currency))
    money_held = _column("Held then", lambda row: _money(row.pending_after, row.currency))
    money_day = _column("Balance of its day", lambda row: _money(row.day_after, row.currency))
    entry = _column("Entry", lambda row: _entry(row.tracekey))
    shown_details = _column("Details", lambda row: _component("json", value=row.details) if row.details else "—")


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

    day = _column("Day", lambda row: _day(row.dateref))
    money_debit = _column("Debits of the day", lambda row: _amount(row.total_debit))
    money_credit = _column("Credits of the day", lambda row: _amount(row.total_credit))
    money_net = _column("Net", lambda row: _amount(row.total_credit - row.total_debit))

    money_balance = _column("Balance at its end", lambda row: _money(_closing(row), row.currency))
    lines = _column(
        "Lines", lambda row: _link(_list_of("transaction", row, dateref__exact=row.dateref), "Its transactions")
    )
    changed = _column("Last change", lambda row: _moment(row.updated_at))


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

    state = _column("Status", lambda row: _chip(row.status))

    shown_key = _column("Key", lambda row: _short(row.key))
    money_amount = _column("Amount", lambda row: _money(row.amount, row.currency))
    placed = _column("Placed", lambda row: _moment(row.created_at))
    expires = _column("Expires", lambda row: _moment(row.expires_at))
    ended = _column("Ended", lambda row: _moment(row.ended_at))
    posting = _column("Posted as", lambda row: _entry(row.tracekey))

    credited = _column("Credited to", lambda row: _of_number(row.credit_branch, row.credit_account))
    run = _column("Run", lambda row: _run(row.key))
