"""The merchants' addresses."""

from django.urls import path

from apps.payments.api import views

urlpatterns = [
    path("payments", views.PaymentsView.as_view(), name="payments"),
    path("payments/cards", views.CardsView.as_view(), name="payment-cards"),
    path("payments/<uuid:payment_id>", views.PaymentView.as_view(), name="payment"),
]
