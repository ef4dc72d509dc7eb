"""The back office's shell: name, colours, menu. Nothing is loaded from another host."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _may(permission: str) -> Callable[[HttpRequest], bool]:
    return lambda request: request.user.has_perm(permission)


def _model(title: str, icon: str, app: str, model: str, **more: Any) -> dict[str, Any]:
    """A menu entry that opens a model's list, for those who may see it."""
    link = reverse_lazy(f"admin:{app}_{model}_changelist")
    return {"title": title, "icon": icon, "link": link, "permission": _may(f"{app}.view_{model}"), **more}


def _runs_active(request: HttpRequest) -> bool:
    return request.path.startswith(("/admin/saga/run/", "/admin/runs/"))


def _triage_active(request: HttpRequest) -> bool:
    return request.path.startswith("/admin/triage/")


def _accounts_active(request: HttpRequest) -> bool:
    return request.path.startswith(("/admin/ledger/account/", "/admin/accounts/"))


def _entries_active(request: HttpRequest) -> bool:
    return request.path.startswith(("/admin/ledger/transaction/", "/admin/entries/"))


_TRIAGE = {
    **_model("Triage", "inbox", "saga", "run", active=_triage_active),
    "link": reverse_lazy("admin:backoffice_triage"),
    "badge": "apps.backoffice.shell.triage_badge",
}

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Lastro",
    "SITE_HEADER": "Lastro",
    "SITE_SUBHEADER": "São Paulo time",  # as apps.common.clock.BUSINESS_ZONE; UTC stands on hover
    "SITE_SYMBOL": "confirmation_number",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda _request: static("backoffice/favicon.svg")},
    ],
    "LOGIN": {"form": "apps.backoffice.login.LoginForm"},
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "ENVIRONMENT": "apps.backoffice.shell.environment",
    "DASHBOARD_CALLBACK": "apps.backoffice.pages.home.dashboard",
    "STYLES": [lambda _request: static("backoffice/backoffice.css")],
    "SCRIPTS": [
        lambda _request: static("backoffice/shell.js"),
        lambda _request: static("backoffice/attributes.js"),
    ],
    "BORDER_RADIUS": "6px",
    "COLORS": {
        # Light is the theme's own scale; the dark end is a little deeper, as in the design.
        "base": {
            "50": "249 250 251",
            "100": "243 244 246",
            "200": "229 231 235",
            "300": "209 213 220",
            "400": "154 167 186",
            "500": "91 101 117",
            "600": "74 85 101",
            "700": "54 65 83",
            "800": "38 51 74",
            "900": "19 29 45",
            "950": "12 20 34",
        },
        # Indigo, for navigation, links and the one main button; it never means a state.
        "primary": {
            "50": "238 242 255",
            "100": "236 238 254",
            "200": "195 200 249",
            "300": "165 176 255",
            "400": "129 140 248",
            "500": "165 176 255",
            "600": "67 56 202",
            "700": "55 48 163",
            "800": "49 46 129",
            "900": "35 44 85",
            "950": "30 27 75",
        },
    },
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": [
            {"items": [{"title": "Home", "icon": "home", "link": reverse_lazy("admin:index")}]},
            {
                "title": "Operate",
                "items": [
                    {
                        "title": "Use cases",
                        "icon": "account_tree",
                        "link": reverse_lazy("admin:backoffice_use_cases"),
                        "permission": _may("saga.view_run"),
                    },
                    # Without a permission: whoever opens it finds those that are his to decide.
                    {"title": "Approvals", "icon": "how_to_reg", "link": reverse_lazy("admin:backoffice_approvals")},
                    _model("Runs", "view_timeline", "saga", "run", active=_runs_active),
                    _TRIAGE,
                    _model("Messages", "chat_bubble", "messaging", "message"),
                    _model("To relay", "outbox", "messaging", "pending"),
                    _model("Redeliveries", "hourglass_top", "messaging", "redelivery"),
                    _model("Replays", "replay", "messaging", "deadletterreplay"),
                ],
            },
            {
                "title": "Orders",
                "items": [
                    _model("Orders", "receipt_long", "orders", "order"),
                    _model("Returns", "assignment_return", "orders", "orderreturn"),
                    _model("Tickets", "confirmation_number", "orders", "ticket"),
                ],
            },
            {
                "title": "Money",
                "items": [
                    _model("Payments", "credit_card", "payments", "payment"),
                    _model("Ledger accounts", "account_balance", "ledger", "account", active=_accounts_active),
                    _model("Transactions", "swap_vert", "ledger", "transaction", active=_entries_active),
                    _model("Balances", "balance", "ledger", "balance"),
                    _model("Holds", "front_hand", "ledger", "hold"),
                    _model("Differences", "rule", "ledger", "difference", badge="apps.backoffice.shell.differences_badge"),
                    _model("Ledger checks", "fact_check", "ledger", "check"),
                    _model("Suspensions", "pause_circle", "ledger", "suspension"),
                    _model("Chain of hashes", "link", "ledger", "block"),
                    _model("Sealed months", "inventory_2", "ledger", "month"),
                ],
            },
            {
                "title": "Fiscal",
                "items": [
                    _model("Documents", "description", "fiscal_docs", "document"),
                    {
                        "title": "Contingency",
                        "icon": "cloud_off",
                        "link": reverse_lazy("admin:backoffice_contingency"),
                        "permission": _may("fiscal_docs.view_document"),
                    },
                    _model("Issuers", "apartment", "fiscal_docs", "issuer"),
                    _model("Certificates", "key", "fiscal_docs", "certificate"),
                ],
            },
            {
                "title": "People",
                "items": [
                    _model("Customers", "person", "customers", "customer"),
                    _model("Merchants", "storefront", "identity", "account"),
                    _model("Webhook endpoints", "webhook", "webhooks", "endpoint"),
                    _model("Webhook deliveries", "send", "webhooks", "delivery"),
                ],
            },
            {
                "title": "Control",
                "items": [
                    _model("Users", "group", "auth", "user"),
                    _model("Groups", "groups", "auth", "group"),
                    _model("Interventions", "front_hand", "saga", "audit"),
                    _model("Incidents", "report", "saga", "incident"),
                    _model("Actions on runs", "checklist", "saga", "bulkaction"),
                    _model("Audit log", "fact_check", "admin", "logentry"),
                ],
            },
        ],
    },
}
