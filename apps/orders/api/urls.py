"""The addresses of the orders API."""

from django.urls import path

from apps.orders.api.views import OrdersView, OrderView

urlpatterns = [
    path("orders", OrdersView.as_view(), name="orders"),
    path("orders/<uuid:order_id>", OrderView.as_view(), name="order"),
]
