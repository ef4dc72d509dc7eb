"""Files over HTTP: which representation a caller wants, and how it is sent without being held in memory."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import StreamingHttpResponse
from rest_framework.exceptions import NotAcceptable
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request

from apps.ledger.public import Export


class CsvRenderer(JSONRenderer):
    """Names the representation; the view streams it. What it renders itself are problems, which are JSON."""

    media_type, format, charset = "text/csv", "csv", "utf-8"


class OfxRenderer(JSONRenderer):
    """As ``CsvRenderer``."""

    media_type, format, charset = "application/x-ofx", "ofx", "utf-8"


class Negotiation(DefaultContentNegotiation):
    """``?format=`` or ``Accept``. A format that is not there is not acceptable, rather than not found."""

    def filter_renderers(self, renderers: Sequence[BaseRenderer], format: str) -> list[BaseRenderer]:  # type: ignore[override]  # the stubs have no use for the answer
        """The renderers of this format. Raises NotAcceptable when there is none."""
        found = [renderer for renderer in renderers if renderer.format == format]
        if not found:
            raise NotAcceptable
        return found


def send(request: Request, export: Export) -> StreamingHttpResponse:
    """Stream a file: its next part is made when the one before it is on its way."""
    headers: Mapping[str, Any] = {
        "Content-Disposition": f'attachment; filename="{export.name}"',
        "Cache-Control": "private, no-store",
    }
    is_async = isinstance(request._request, ASGIRequest)
    return StreamingHttpResponse(
        _parts_for_asgi(export.parts) if is_async else export.parts,
        content_type=f"{export.media_type}; charset=utf-8",
        headers=headers,
    )


async def _parts_for_asgi(parts: Iterator[str]) -> AsyncIterator[str]:
    """Django would gather a plain iterator's parts before it sends the first one."""

    def take() -> str | None:
        return next(parts, None)

    # In the request's own thread, whose connection to the database it uses.
    take_later = sync_to_async(take, thread_sensitive=True)
    while (part := await take_later()) is not None:
        yield part
