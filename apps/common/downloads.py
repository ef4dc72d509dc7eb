"""A file sent part by part, without being held in memory, whatever server runs the project."""

from collections.abc import AsyncIterator, Iterator

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse


def stream(request: HttpRequest, *, name: str, media_type: str, parts: Iterator[str]) -> StreamingHttpResponse:
    """A file to save, in UTF-8: its next part is made when the one before it is on its way."""
    return StreamingHttpResponse(
        _parts_for_asgi(parts) if isinstance(request, ASGIRequest) else parts,
        content_type=f"{media_type}; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "private, no-store"},
    )


async def _parts_for_asgi(parts: Iterator[str]) -> AsyncIterator[str]:
    """Django would gather a plain iterator's parts before it sends the first one."""

    def take() -> str | None:
        return next(parts, None)

    # In the request's own thread, whose connection to the database it uses.
    take_later = sync_to_async(take, thread_sensitive=True)
    while (part := await take_later()) is not None:
        yield part
