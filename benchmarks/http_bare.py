"""The yardstick of benchmarks/http_orders.py: a DRF view that parses the same body and answers it, and does nothing else.

The same web server, settings, middleware and parser as POST /orders; no serializer, no database but the caller's login.

    uvicorn benchmarks.http_bare:application
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from config.asgi import application  # isort: skip  # it loads Django, which the others need

from django.conf import settings
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

__all__ = ["application"]


class BareView(APIView):
    """Nothing."""

    def post(self, request: Request) -> Response:
        """Answer with what was sent."""
        return Response(request.data, status=201)


urlpatterns = [path("orders", BareView.as_view())]
settings.ROOT_URLCONF = "benchmarks.http_bare"
