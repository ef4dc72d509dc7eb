"""The parts of a page that change, alone: asked for every second or two by static/backoffice/live.js."""

from hashlib import blake2b
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseNotModified
from django.template.loader import render_to_string
from django.utils import timezone

# Nobody opens a fragment as a page: whatever might have got into it, no browser may run or load it.
POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"


def fragment(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    """Draw the parts. Who has them already, as they are, gets 304 and no body: then the page does nothing either."""
    html = render_to_string(template, context, request=request)
    tag = f'"{blake2b(html.encode(), digest_size=12).hexdigest()}"'
    same = request.headers.get("If-None-Match") == tag
    answer = HttpResponseNotModified() if same else HttpResponse(html)
    answer["ETag"] = tag
    answer["X-Live-At"] = f"{timezone.localtime():%H:%M:%S}"  # beside the parts: it changes with every answer
    answer["Cache-Control"] = "no-store"  # a page of somebody who logged in
    answer["Content-Security-Policy"] = POLICY
    return answer
