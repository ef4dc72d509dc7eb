"""A request's address means all that it says: what follows the question mark is known, and said once."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from django.core.exceptions import TooManyFieldsSent
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.plumbing import ComponentRegistry
from drf_spectacular.settings import spectacular_settings

from apps.common import problems
from apps.common.errors import InvalidRequest
from apps.common.known_fields import shown

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})  # of operations; a class answers to more names
OURS = "apps."  # views of libraries have parameters of their own


class KnownParametersMiddleware:
    """Refuses a query parameter of the API that its operation does not have, or that is given twice and has one value.

    Whoever writes ``form`` for ``from`` means something, and would get the answer to another question. What there is, is
    what the OpenAPI document says of the operation.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], _arguments: Any, _named: Any
    ) -> HttpResponseBase | None:
        """Django's hook: the view is known, and has not been called. Raises Http404 for an address with U+0000 in it."""
        if "\x00" in request.path_info:
            raise Http404  # no key holds it, and PostgreSQL takes no text with it
        if not request.META.get("QUERY_STRING") or not getattr(getattr(view, "cls", None), "__module__", "").startswith(
            OURS
        ):
            return None
        method = "GET" if request.method == "HEAD" else str(request.method)
        if method not in METHODS or not hasattr(view.cls, method.lower()):  # type: ignore[attr-defined]  # an APIView's
            return None  # no operation: it has its own refusal
        try:
            given = request.GET
        except TooManyFieldsSent:
            return _refused(request, "", "The address has too many parameters.")
        known = _parameters(view, method)
        for name in sorted(given):
            if name not in known:
                there = f"There are: {', '.join(sorted(known))}." if known else "There are none."
                return _refused(request, name, f"There is no parameter {shown(name)} here. {there}")
            if not known[name] and len(given.getlist(name)) > 1:
                return _refused(request, name, f"{name} is given more than once.")
        return None


def _refused(request: HttpRequest, name: str, detail: str) -> HttpResponseBase:
    return problems.response(InvalidRequest(detail, field=shown(name)), request)


@cache  # of some sixty operations: worked out when one is first asked with a parameter
def _parameters(view: Callable[..., Any], method: str) -> Mapping[str, bool]:
    """The query parameters of an operation, as the OpenAPI document has them: may it be given more than once?"""
    generator = SchemaGenerator()  # type: ignore[no-untyped-call]  # it alone holds what the view's schema refers to
    instance = generator.create_view(view, method)  # type: ignore[no-untyped-call]
    instance.request = spectacular_settings.GET_MOCK_REQUEST(method, "/", instance, None)
    operation = instance.schema.get_operation("/", "/", "", method, ComponentRegistry())
    found = [one for one in operation.get("parameters", ()) if one["in"] == "query"]
    return MappingProxyType({one["name"]: one["schema"].get("type") == "array" for one in found})
