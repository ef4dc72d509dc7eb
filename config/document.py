"""The OpenAPI document over HTTP: written once a process. It costs what ten orders cost, and anybody may ask for it."""

from functools import cache
from typing import Any

from django.http import HttpResponse
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request


class DocumentView(SpectacularAPIView):
    """The same for every caller, as YAML or JSON (``?format=`` or ``Accept``)."""

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """What the library would answer, without writing it again."""
        renderer: Any = request.accepted_renderer
        name = f'inline; filename="Lastro.{renderer.format}"'
        kind: Any = type(renderer)  # mypy takes a class's own __hash__ for that of its objects
        written = _document(kind)
        return HttpResponse(written, content_type=renderer.media_type, headers={"Content-Disposition": name})


@cache  # of the library's four renderers
def _document(renderer: Any) -> Any:
    document = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return renderer().render(document, renderer_context={})
