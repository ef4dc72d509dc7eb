"""The back office's own pages, inside the admin: behind its login, under its address."""

from django.contrib import admin
from django.urls import URLPattern, path

from apps.backoffice.pages import account, act, actions, care, contingency, entry, forks, order_document, resets, triage
from apps.backoffice.pages.approvals import approval_view, approvals_view
from apps.backoffice.pages.home import home_live
from apps.backoffice.pages.run import run_live, run_view
from apps.backoffice.pages.usecases import list_view, pause_view, resume_view, use_case_live, use_case_view

# The addresses of a run's actions, which lead to the one page that acts.
_ABOUT_A_RUN = (
    *(("retry", "retry"), ("edit", "retry")),
    *(("compensate", "compensate"), ("skip", "skip"), ("handled", "handle")),
)
_ACTION = "triage/actions/<uuid:action_id>/"
_REVERSAL = "entries/<uuid:tracekey>/reversals/<uuid:request_id>/"
_ACCOUNT = "accounts/<str:branch>/<str:account>/<str:currency>/"


def page_urls() -> list[URLPattern]:
    """Pages that belong to no model; the admin's site puts them before its own."""
    inside = admin.site.admin_view
    return [
        path("home/live/", inside(home_live), name="backoffice_home_live"),
        path("runs/<uuid:run_id>/", inside(run_view), name="backoffice_run"),
        path("runs/<uuid:run_id>/live/", inside(run_live), name="backoffice_run_live"),
        *(
            path(f"runs/<uuid:run_id>/{word}/", inside(act.run_view), {"action": action}, name=f"backoffice_run_{word}")
            for word, action in _ABOUT_A_RUN
        ),
        path("runs/<uuid:run_id>/fork/", inside(forks.ask_view), name="backoffice_run_fork"),
        path("runs/<uuid:run_id>/reset/", inside(resets.reset_view), name="backoffice_run_reset"),
        path("forks/<uuid:fork_id>/", inside(forks.fork_view), name="backoffice_fork"),
        path("triage/", inside(triage.list_view), name="backoffice_triage"),
        path("triage/live/", inside(triage.live_view), name="backoffice_triage_live"),
        path("triage/act/", inside(act.act_view), name="backoffice_triage_act"),
        path("triage/care/", inside(care.care_view), name="backoffice_triage_care"),
        path("triage/groups/<uuid:incident_id>/", inside(triage.group_view), name="backoffice_triage_group"),
        path("triage/groups/<uuid:incident_id>/live/", inside(triage.group_live_view), name="backoffice_triage_group_live"),
        path(_ACTION, inside(actions.action_view), name="backoffice_triage_action"),
        path(f"{_ACTION}live/", inside(actions.action_live_view), name="backoffice_triage_action_live"),
        path(f"{_ACTION}approve/", inside(actions.approve_view), name="backoffice_triage_action_approve"),
        path(f"{_ACTION}cancel/", inside(actions.cancel_view), name="backoffice_triage_action_cancel"),
        path(_ACCOUNT, inside(account.account_view), name="backoffice_account"),
        path(f"{_ACCOUNT}live/", inside(account.account_live), name="backoffice_account_live"),
        path(f"{_ACCOUNT}statement.<str:kind>", inside(account.export_view), name="backoffice_account_export"),
        path("entries/<uuid:tracekey>/", inside(entry.entry_view), name="backoffice_entry"),
        path("entries/<uuid:tracekey>/reverse/", inside(entry.reverse_view), name="backoffice_entry_reverse"),
        path(f"{_REVERSAL}agree/", inside(entry.agree_view), name="backoffice_reversal_agree"),
        path(f"{_REVERSAL}withdraw/", inside(entry.withdraw_view), name="backoffice_reversal_withdraw"),
        path("contingency/", inside(contingency.contingency_view), name="backoffice_contingency"),
        path("orders/<uuid:order_id>/document/", inside(order_document.settle_view), name="backoffice_order_document"),
        path("approvals/", inside(approvals_view), name="backoffice_approvals"),
        path("approvals/<uuid:approval_id>/", inside(approval_view), name="backoffice_approval"),
        path("use-cases/", inside(list_view), name="backoffice_use_cases"),
        path("use-cases/<str:name>/", inside(use_case_view), name="backoffice_use_case"),
        path("use-cases/<str:name>/live/", inside(use_case_live), name="backoffice_use_case_live"),
        path("use-cases/<str:name>/pause/", inside(pause_view), name="backoffice_use_case_pause"),
        path("use-cases/<str:name>/resume/", inside(resume_view), name="backoffice_use_case_resume"),
    ]
