"""Files over HTTP: which representation a caller wants, and how it is sent without being held in memory."""

from collections.abc import Sequence

from django.http import StreamingHttpResponse
from rest_framework.exceptions import NotAcceptable
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer

from apps.common.downloads import stream
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


def send(export: Export) -> StreamingHttpResponse:
    """The file as the answer."""
    return stream(name=export.name, media_type=export.media_type, parts=export.parts)
