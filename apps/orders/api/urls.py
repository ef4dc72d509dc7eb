"""The addresses of the orders API."""

from django.urls import path

from apps.orders.api.return_views import ReturnsView, ReturnView
from apps.orders.api.views import OrdersView, OrderView

urlpatterns = [
    path("orders", OrdersView.as_view(), name="orders"),
    path("orders/<uuid:order_id>", OrderView.as_view(), name="order"),
    path("orders/<uuid:order_id>/returns", ReturnsView.as_view(), name="returns"),
    path("orders/<uuid:order_id>/returns/<uuid:return_id>", ReturnView.as_view(), name="return"),
]
