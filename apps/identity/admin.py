"""Accounts and their secrets, to look at. A secret itself is nowhere to be seen."""

from django.contrib import admin
from django.utils import timezone
from django.utils.safestring import SafeString

from apps.common.admin import Look, ReadOnlyAdmin, ReadOnlyInline, WordsFilter, address, chip, link, moment
from apps.identity.models import Account, Secret


class SecretInline(ReadOnlyInline):
    model = Secret
    fields = readonly_fields = ("prefix", "state", "created", "expires", "revoked", "used", "addresses")
    ordering = ("-id",)

    @admin.display(description="State")
    def state(self, row: Secret) -> SafeString:
        if row.revoked_at is not None:
            return chip(Look("idle", "close", "Revoked"))
        if row.expires_at is not None and row.expires_at <= timezone.now():
            return chip(Look("idle", "clock", "Expired"))
        return chip(Look("ok", "ok", "Live"))

    @admin.display(description="Created")
    def created(self, row: Secret) -> SafeString:
        return moment(row.created_at)

    @admin.display(description="Expires")
    def expires(self, row: Secret) -> SafeString:
        return moment(row.expires_at)

    @admin.display(description="Revoked")
    def revoked(self, row: Secret) -> SafeString:
        return moment(row.revoked_at)

    @admin.display(description="Last used")
    def used(self, row: Secret) -> SafeString:
        return moment(row.last_used_at)


class ActiveFilter(WordsFilter):
    """May it call, or is it blocked?"""

    title, parameter_name, field = "state", "active__exact", "active"
    words = {"1": "Active", "0": "Blocked"}


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    list_display = ("state", "code", "name", "scopes_held", "payments", "created")
    list_display_links = ("code",)
    list_filter = (ActiveFilter,)
    search_fields = ("code__startswith",)
    search_help_text = "How an account's code begins: acc_…"
    ordering = ("code",)
    inlines = (SecretInline,)
    fields = readonly_fields = ("state", "code", "name", "scopes_held", "payments", "created")
    says = "Who may call the API: merchants and our own programs. A blocked one is answered like an unknown one."
    empty = "Nobody may call the API yet."

    @admin.display(description="State")
    def state(self, row: Account) -> SafeString:
        return chip(Look("ok", "ok", "Active") if row.active else Look("idle", "lock", "Blocked"))

    @admin.display(description="May do")
    def scopes_held(self, row: Account) -> str:
        return ", ".join(row.scopes) or "nothing"

    @admin.display(description="Payments")
    def payments(self, row: Account) -> str:
        return link(address("payments_payment_changelist", query=f"?q={row.pk}"), "Its payments")

    @admin.display(description="Created")
    def created(self, row: Account) -> SafeString:
        return moment(row.created_at)
