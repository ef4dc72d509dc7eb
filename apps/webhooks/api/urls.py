"""The addresses of webhooks."""

from django.urls import path

from apps.webhooks.api import views

_ONE = "webhooks/endpoints/<uuid:endpoint_id>"

urlpatterns = [
    path("webhooks/event-types", views.EventTypesView.as_view(), name="webhook-event-types"),
    path("webhooks/endpoints", views.EndpointsView.as_view(), name="webhook-endpoints"),
    path(_ONE, views.EndpointView.as_view(), name="webhook-endpoint"),
    path(f"{_ONE}/secret", views.SecretView.as_view(), name="webhook-secret"),
    path(f"{_ONE}/ping", views.PingView.as_view(), name="webhook-ping"),
    path(f"{_ONE}/deliveries", views.DeliveriesView.as_view(), name="webhook-deliveries"),
    path(f"{_ONE}/redeliveries", views.RedeliveriesView.as_view(), name="webhook-redeliveries"),
]
