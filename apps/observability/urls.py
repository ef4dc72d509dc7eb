"""Health, for load balancers and people; metrics, for Prometheus."""

from django.urls import path

from apps.observability import health, scrape

urlpatterns = [
    path("healthz", health.live, name="healthz"),
    path("readyz", health.ready, name="readyz"),
    path("metrics", scrape.metrics, name="metrics"),
]
