"""Health, for load balancers and people."""

from django.urls import path

from apps.observability import health

urlpatterns = [
    path("healthz", health.live, name="healthz"),
    path("readyz", health.ready, name="readyz"),
]
