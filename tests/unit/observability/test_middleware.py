"""Around every request: an id, and a limit to its body."""

import io
import json
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from rest_framework.request import Request

from apps.common.parsers import StrictJSONParser
from apps.observability import ids
from apps.observability.middleware import BodyLimitMiddleware, RequestIdMiddleware

LIMIT = 100
pytestmark = [pytest.mark.usefixtures("small_limit")]


@pytest.fixture
def small_limit() -> Any:
    with override_settings(REQUEST_BODY_BYTES_MAX=LIMIT):
        yield


def post(body: bytes, *, chunked: bool = False, path: str = "/orders") -> HttpRequest:
    request = RequestFactory().post(path, data=body, content_type="application/json")
    if chunked:
        del request.META["CONTENT_LENGTH"]
        # The test client's payload refuses reads past its end; a spooled ASGI body does not.
        request._stream = io.BytesIO(body)  # type: ignore[attr-defined]
    return request


def echo(request: HttpRequest) -> HttpResponse:
    data = Request(request, parsers=[StrictJSONParser()]).data
    return HttpResponse(json.dumps(data, default=str))


class TestBodyLimit:
    def test_lets_a_body_of_the_limit_in(self) -> None:
        body = b'"' + b"x" * (LIMIT - 2) + b'"'
        assert BodyLimitMiddleware(echo)(post(body)).content == body

    def test_refuses_one_byte_more(self) -> None:
        response = BodyLimitMiddleware(echo)(post(b"x" * (LIMIT + 1)))
        assert response.status_code == 413
        assert json.loads(response.content)["code"] == "R003"

    @pytest.mark.parametrize("length", ["-1", "abc", "²", "9" * 5000])
    def test_refuses_a_length_that_is_none(self, length: str) -> None:
        request = post(b"{}")
        request.META["CONTENT_LENGTH"] = length
        assert BodyLimitMiddleware(echo)(request).status_code == 413

    def test_gives_a_chunked_body_to_the_view(self) -> None:
        assert BodyLimitMiddleware(echo)(post(b'{"a": 1}', chunked=True)).content == b'{"a": 1}'

    def test_refuses_a_chunked_body_over_the_limit(self) -> None:
        assert BodyLimitMiddleware(echo)(post(b"x" * (LIMIT + 1), chunked=True)).status_code == 413

    @pytest.mark.parametrize("chunked", [False, True])
    def test_has_addresses_with_a_limit_of_their_own(self, chunked: bool) -> None:
        body = b'"' + b"x" * LIMIT + b'"'
        with override_settings(REQUEST_BODY_BYTES_MAX_AT={"/many": len(body)}):
            assert BodyLimitMiddleware(echo)(post(body, path="/many", chunked=chunked)).content == body
            for path, sent in (("/many", body + b" "), ("/many/", body)):
                assert BodyLimitMiddleware(echo)(post(sent, path=path, chunked=chunked)).status_code == 413

    def test_leaves_the_admin_its_own_limit(self) -> None:
        def admin(_request: HttpRequest) -> HttpResponse:
            return HttpResponse("in")

        assert BodyLimitMiddleware(admin)(post(b"x" * (LIMIT + 1), path="/admin/login/")).content == b"in"


class TestRequestId:
    def test_keeps_the_callers_id_and_binds_it(self) -> None:
        seen: list[dict[str, str]] = []

        def view(request: HttpRequest) -> HttpResponse:
            seen.append(ids.current())
            return HttpResponse(request.request_id)  # type: ignore[attr-defined]

        response = RequestIdMiddleware(view)(RequestFactory().get("/", headers={"X-Request-ID": "mine-1"}))
        assert (response["X-Request-ID"], response.content, seen) == ("mine-1", b"mine-1", [{"request_id": "mine-1"}])

    @pytest.mark.parametrize("given_id", [None, "", "a b", "x" * 200, 'evil"'])
    def test_makes_one_when_there_is_none_to_keep(self, given_id: str | None) -> None:
        headers = {} if given_id is None else {"X-Request-ID": given_id}
        response = RequestIdMiddleware(lambda _request: HttpResponse())(RequestFactory().get("/", headers=headers))
        assert response["X-Request-ID"] != given_id
        assert len(response["X-Request-ID"]) == 36
