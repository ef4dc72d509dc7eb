"""Addresses of the fiscal documents' API."""

from django.urls import URLPattern, path

from apps.fiscal_docs.api import views

urlpatterns: list[URLPattern] = [
    path("fiscal-documents", views.DocumentsView.as_view(), name="fiscal-documents"),
    path("fiscal-documents/<uuid:document_id>", views.DocumentDetailView.as_view(), name="fiscal-document"),
    path("fiscal-documents/<uuid:document_id>/xml", views.DocumentXmlView.as_view(), name="fiscal-document-xml"),
    path("fiscal-documents/<uuid:document_id>/danfe", views.DocumentDanfeView.as_view(), name="fiscal-document-danfe"),
]
