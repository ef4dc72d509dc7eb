"""Approvals: what waits for a person's decision, the facts for it, and two buttons. Always with a reason."""

from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from apps.backoffice.components.formats import deciders, words
from apps.backoffice.components.states import look
from apps.backoffice.components.verdicts import Verdict
from apps.backoffice.pages.entry import ACT as MAY_REVERSE
from apps.backoffice.pages.triage import VIEW as SEE_RUNS
from apps.backoffice.pages.triage import actor_of, name_of, sentence_of
from apps.common.errors import DomainError
from apps.common.reasons import reason_field
from apps.ledger import public as ledger
from apps.saga import public as saga

VIEW = "saga.view_approval"
ROWS_MAX = 100  # on the page; the admin's list has all of them
APPROVE, REFUSE = "approve", "refuse"


class DecisionForm(forms.Form):
    """Which of the two, and why."""

    decision = forms.ChoiceField(choices=[(APPROVE, APPROVE), (REFUSE, REFUSE)])
    reason = reason_field()


def decider(user: User) -> saga.Decider:
    """Who a colleague is, and what he may do."""
    groups = {f"group:{name}" for name in user.groups.values_list("name", flat=True)}
    permissions = {f"permission:{name}" for name in user.get_all_permissions()}
    return saga.Decider(actor_of(user), frozenset(groups | permissions))


def approvals_view(request: HttpRequest) -> HttpResponse:
    """Those that wait: all of them for whoever may look at them, else those that are his."""
    user = _user(request)
    by = decider(user)
    found = saga.find_approvals(limit=ROWS_MAX, may=None if user.has_perm(VIEW) else by)
    lines = [(row, row.may(by)) for row in found.rows]
    reversals = ledger.waiting_reversals(now=timezone.now()) if user.has_perm(MAY_REVERSE) else []
    context = {
        **admin.site.each_context(request),
        "title": "Approvals",
        "reversals": [(row, row.asked_by != by.name) for row in reversals],
        "lines": sorted(lines, key=lambda line: not line[1]),  # mine first, each group the newest first
        "more": found.total - len(lines),
        "sees_runs": user.has_perm(SEE_RUNS),
    }
    return render(request, "backoffice/approvals.html", context)


def approval_view(request: HttpRequest, approval_id: UUID) -> HttpResponse:
    """GET shows the question, POST decides it. Never a change on GET."""
    user = _user(request)
    by, approval = decider(user), saga.approval(approval_id)
    if approval is None:
        raise Http404("There is no such approval.")
    if not approval.may(by) and not user.has_perm(VIEW):
        raise PermissionDenied
    if request.method != "POST":
        return _page(request, approval, by, DecisionForm(), status=200)
    form = DecisionForm(request.POST)
    if not approval.may(by):
        raise PermissionDenied
    if not form.is_valid():
        return _page(request, approval, by, form, status=422)
    approve = form.cleaned_data["decision"] == APPROVE
    try:
        saga.decide(approval_id, approve=approve, by=by, reason=form.cleaned_data["reason"], now=timezone.now())
    except DomainError as refusal:
        messages.warning(request, f"Nothing done: {refusal.detail}")
    else:
        messages.success(request, "Approved: the run goes on." if approve else "Refused: what was done is undone.")
    return redirect("admin:backoffice_approval", approval_id)


def _user(request: HttpRequest) -> User:
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user


def verdict_of(approval: saga.ApprovalState, *, mine: bool) -> Verdict:
    """Does it wait for me?"""
    what = f"{words(approval.step)} of {approval.business_key}"
    if approval.status == "OPEN":
        passed = " The first ones did not decide in time." if approval.delegated else ""
        said = "You decide." if mine else f"{sentence_of(deciders(approval.who))} decides."
        return Verdict("run", "wait", said, f"The run waits at {what}.{passed}")
    shown = look("approval", approval.status)
    said = f"{name_of(approval.decided_by)}: {approval.reason}" if approval.reason else ""
    return Verdict(shown.tone, shown.icon, f"{shown.word}.", said)


def _page(
    request: HttpRequest, approval: saga.ApprovalState, by: saga.Decider, form: DecisionForm, *, status: int
) -> HttpResponse:
    mine = approval.may(by)
    context = {
        **admin.site.each_context(request),
        "title": "Approval",
        "approval": approval,
        "look": look("approval", approval.status),
        "verdict": verdict_of(approval, mine=mine),
        "may_decide": mine and approval.status == "OPEN",
        "form": form,
        "sees_runs": request.user.has_perm(SEE_RUNS),
    }
    return render(request, "backoffice/approval.html", context, status=status)
