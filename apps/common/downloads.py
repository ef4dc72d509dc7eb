"""A file sent part by part, without being held in memory."""

from collections.abc import Iterator

from django.http import StreamingHttpResponse


def stream(*, name: str, media_type: str, parts: Iterator[str]) -> StreamingHttpResponse:
    """A file to save, in UTF-8: its next part is made when the one before it is on its way.

    In the request's own thread, whose connection to the database the parts use: see Note [Streams] in config/threads.py.
    """
    return StreamingHttpResponse(
        parts,
        content_type=f"{media_type}; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "private, no-store"},
    )
