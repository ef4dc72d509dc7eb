"""The addresses of the state manager."""

from django.urls import path

from apps.saga.api import approvals, care_views, fork_views, triage_views, views

_USE_CASE = "sagas/use-cases/<str:name>"
_STEP = f"{_USE_CASE}/steps/<str:step>"
_ACTION = "sagas/actions/<uuid:action_id>"
urlpatterns = [
    path("sagas", views.RunsView.as_view(), name="sagas"),
    path("sagas/approvals", approvals.ApprovalsView.as_view(), name="saga-approvals"),
    path("sagas/approvals/<uuid:approval_id>", approvals.ApprovalView.as_view(), name="saga-approval"),
    path("sagas/use-cases", views.UseCasesView.as_view(), name="saga-use-cases"),
    path(_USE_CASE, views.UseCaseView.as_view(), name="saga-use-case"),
    path(f"{_USE_CASE}/diagram.svg", views.SvgView.as_view(), name="saga-diagram-svg"),
    path(f"{_USE_CASE}/diagram.mmd", views.MermaidView.as_view(), name="saga-diagram-mermaid"),
    path(f"{_USE_CASE}/pause", views.PauseUseCaseView.as_view(), name="saga-use-case-pause"),
    path(f"{_USE_CASE}/resume", views.ResumeUseCaseView.as_view(), name="saga-use-case-resume"),
    path(f"{_STEP}/pause", views.PauseStepView.as_view(), name="saga-step-pause"),
    path(f"{_STEP}/resume", views.ResumeStepView.as_view(), name="saga-step-resume"),
    path("sagas/adopt", fork_views.AdoptView.as_view(), name="saga-adopt"),
    path("sagas/forks/<uuid:fork_id>", fork_views.ForkStateView.as_view(), name="saga-fork-state"),
    path("sagas/<uuid:run_id>/fork", fork_views.ForkView.as_view(), name="saga-fork"),
    path("sagas/<uuid:run_id>/forks", fork_views.ForksView.as_view(), name="saga-forks"),
    path("sagas/<uuid:run_id>/reset", fork_views.ResetView.as_view(), name="saga-reset"),
    path("sagas/incidents", triage_views.IncidentsView.as_view(), name="saga-incidents"),
    path("sagas/incidents/<uuid:incident_id>", triage_views.IncidentView.as_view(), name="saga-incident"),
    path("sagas/incidents/<uuid:incident_id>/care", care_views.CareView.as_view(), name="saga-incident-care"),
    path("sagas/actions", triage_views.ActionsView.as_view(), name="saga-actions"),
    path(_ACTION, triage_views.ActionView.as_view(), name="saga-action"),
    path(f"{_ACTION}/approve", triage_views.ApproveActionView.as_view(), name="saga-action-approve"),
    path(f"{_ACTION}/cancel", triage_views.CancelActionView.as_view(), name="saga-action-cancel"),
    path("sagas/<str:key>", views.RunView.as_view(), name="saga"),
]
