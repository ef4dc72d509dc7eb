"""Which URL belongs to whom."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerView

from config.document import DocumentView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
    path("", include("apps.orders.api.urls")),
    path("", include("apps.payments.api.urls")),
    path("", include("apps.ledger.api.urls")),
    path("", include("apps.fiscal_docs.api.urls")),
    path("", include("apps.webhooks.api.urls")),
    path("", include("apps.saga.api.urls")),
    path("", include("apps.observability.urls")),
    path("api/schema", DocumentView.as_view(), name="schema"),
    path("api/docs", SpectacularSwaggerView.as_view(url_name="schema"), name="api-docs"),
    path("admin/", admin.site.urls),
]

handler403 = "apps.backoffice.pages.errors.denied"
handler404 = "apps.backoffice.pages.errors.not_found"
handler500 = "apps.backoffice.pages.errors.broken"
