"""Who may open which page: what the pages themselves ask for, said once more for those who link to them."""

from functools import cache
from typing import Any

from django.contrib import admin
from django.http import HttpRequest

_RUNS, _ACTS = "saga.view_run", "saga.change_run"

# The permission of each page of our own that others link to; test_doors.py asks the pages.
OWN = {
    "backoffice_run": _RUNS,
    "backoffice_fork": _RUNS,
    "backoffice_triage": _RUNS,
    "backoffice_triage_group": _RUNS,
    "backoffice_triage_action": _RUNS,
    "backoffice_use_case": _RUNS,
    "backoffice_use_cases": _RUNS,
    "backoffice_order_document": _ACTS,
    "backoffice_account": "ledger.view_account",
    "backoffice_entry": "ledger.view_transaction",
    "backoffice_contingency": "fiscal_docs.view_document",
}


def may_open(request: HttpRequest, page: str) -> bool:
    """May this viewer open the admin's page of this name? One that nobody has said anything about refuses by itself."""
    if permission := OWN.get(page):
        return bool(request.user.has_perm(permission))
    model, _, kind = page.rpartition("_")
    found = _lists().get(model) if kind in ("change", "changelist") else None
    return found is None or bool(found.has_view_or_change_permission(request))


@cache
def _lists() -> dict[str, Any]:
    """The admins of the models, as their pages are named."""
    return {f"{kind._meta.app_label}_{kind._meta.model_name}": each for kind, each in admin.site._registry.items()}
