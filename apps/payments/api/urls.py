"""The merchants' addresses."""

from django.urls import path

from apps.payments.api import authorisation_views, refund_views, views

urlpatterns = [
    path("payments", views.PaymentsView.as_view(), name="payments"),
    path("payments/cards", views.CardsView.as_view(), name="payment-cards"),
    path("payments/<uuid:payment_id>", views.PaymentView.as_view(), name="payment"),
    path("payments/<uuid:payment_id>/capture", authorisation_views.CaptureView.as_view(), name="capture"),
    path("payments/<uuid:payment_id>/void", authorisation_views.VoidView.as_view(), name="void"),
    path("payments/<uuid:payment_id>/refunds", refund_views.RefundsView.as_view(), name="refunds"),
    path("payments/<uuid:payment_id>/refunds/<uuid:refund_id>", refund_views.RefundView.as_view(), name="refund"),
]
