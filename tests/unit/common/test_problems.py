"""Every refusal has one shape."""

import json
import logging
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest
from django.test import RequestFactory
from rest_framework import exceptions as drf
from rest_framework import serializers

from apps.common import problems
from apps.common.errors import DomainError, InternalError, InvalidRequest, TooManyRequests


class Refused(DomainError):
    """It was refused.

    What follows explains it to a reader of the code.
    """

    code, retryable = "R990", True


class Line(serializers.Serializer[Any]):
    quantity = serializers.IntegerField(min_value=1)
    tags = serializers.ListField(child=serializers.IntegerField(), required=False)


class Basket(serializers.Serializer[Any]):
    customer = serializers.CharField()
    items = Line(many=True)

    def validate(self, attrs: Any) -> Any:
        if attrs["customer"] == "nobody":
            raise serializers.ValidationError("the whole is wrong")
        return attrs


def request() -> HttpRequest:
    made = RequestFactory().post("/x")
    made.request_id = "req-1"  # type: ignore[attr-defined]
    return made


def answer(error: Exception) -> tuple[Any, dict[str, Any]]:
    response = problems.exception_handler(error, {"request": request()})
    return response, response.data


def violations(data: dict[str, Any]) -> list[str]:
    with pytest.raises(drf.ValidationError) as found:
        Basket(data=data).is_valid(raise_exception=True)
    _, body = answer(found.value)
    assert body["code"] == "R001"
    return [violation["field"] for violation in body["violations"]]


class TestDocument:
    def test_has_the_members_of_rfc_9457_and_ours(self) -> None:
        response, body = answer(Refused("The shelf is empty.", field="items[0].id"))
        assert body == {
            "type": "urn:lastro:error:R990",
            "title": "R990 It was refused.",
            "status": 409,
            "code": "R990",
            "detail": "The shelf is empty.",
            "retryable": True,
            "request_id": "req-1",
            "field": "items[0].id",
        }
        assert response.content_type == "application/problem+json"
        assert response["Retry-After"] == "1"

    def test_says_its_title_when_there_is_no_detail(self) -> None:
        assert answer(Refused())[1]["detail"] == "It was refused."
        assert "field" not in answer(Refused())[1]

    def test_has_the_shape_that_the_openapi_document_promises(self) -> None:
        promised = set(problems.ProblemSerializer().fields)
        with pytest.raises(drf.ValidationError) as found:
            Basket(data={}).is_valid(raise_exception=True)
        assert set(answer(found.value)[1]) <= promised


class TestTranslation:
    @pytest.mark.parametrize(
        ("error", "code", "status"),
        [
            (drf.ParseError(), "R002", 400),
            (Http404(), "R004", 404),
            (drf.NotFound(), "R004", 404),
            (drf.MethodNotAllowed("PUT"), "R005", 405),
            (drf.UnsupportedMediaType("text/xml"), "R006", 415),
            (drf.NotAcceptable(), "R007", 406),
            (drf.Throttled(), "R008", 429),
            (drf.NotAuthenticated(), "R010", 401),
            (drf.AuthenticationFailed(), "R010", 401),
            (drf.PermissionDenied(), "R011", 403),
            (PermissionDenied(), "R011", 403),
        ],
    )
    def test_gives_each_exception_its_code(self, error: Exception, code: str, status: int) -> None:
        response, body = answer(error)
        assert (body["code"], body["status"], response.status_code) == (code, status, status)
        assert ("WWW-Authenticate" in response) == (status == 401)

    def test_tells_a_stranger_nothing_about_a_bug(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.ERROR):
            response, body = answer(RuntimeError("the password is hunter2"))
        assert (body["code"], response.status_code) == ("R009", 500)
        assert "hunter2" not in json.dumps(body)
        assert "hunter2" in caplog.text

    def test_works_without_a_request(self) -> None:
        assert problems.exception_handler(Refused(), {}).data["request_id"] == ""


class TestViolations:
    def test_names_the_member_of_a_list(self) -> None:
        assert violations({"customer": "x", "items": [{"quantity": 0}]}) == ["items[0].quantity"]

    def test_counts_the_members_that_are_right(self) -> None:
        lines = [{"quantity": 1}, {"quantity": 1}, {"quantity": "x"}]
        assert violations({"customer": "x", "items": lines}) == ["items[2].quantity"]

    def test_names_the_member_of_a_plain_list(self) -> None:
        lines = [{"quantity": 1, "tags": [1, "x", 2, "y"]}]
        assert violations({"customer": "x", "items": lines}) == ["items[0].tags[1]", "items[0].tags[3]"]

    def test_lists_all_of_them_with_the_first_as_the_field(self) -> None:
        with pytest.raises(drf.ValidationError) as found:
            Basket(data={"items": [{"quantity": -1}]}).is_valid(raise_exception=True)
        _, body = answer(found.value)
        assert [violation["field"] for violation in body["violations"]] == ["customer", "items[0].quantity"]
        assert body["field"] == "customer"
        assert body["detail"].startswith("customer: ")
        assert body["status"] == 422

    def test_calls_what_belongs_to_no_field_the_body(self) -> None:
        assert violations({"customer": "nobody", "items": []}) == ["body"]
        assert violations([1]) == ["body"]  # type: ignore[arg-type]

    def test_says_where_a_list_should_have_been(self) -> None:
        assert violations({"customer": "x", "items": "none"}) == ["items"]


class TestOutsideTheRestFramework:
    def test_answers_with_the_same_document(self) -> None:
        response = problems.response(TooManyRequests(), request())
        assert json.loads(response.content)["code"] == "R008"
        assert response["Content-Type"] == "application/problem+json"
        assert response["Retry-After"] == "1"

    def test_is_what_django_says_for_404_and_500(self) -> None:
        assert problems.page_not_found(request()).status_code == 404
        assert problems.server_error(request()).status_code == 500


class TestDomainError:
    def test_is_its_own_message(self) -> None:
        assert str(Refused()) == "It was refused."
        assert str(Refused("this time")) == "this time"

    def test_calls_a_malformed_request_422_and_a_refusal_409(self) -> None:
        assert (DomainError.status, InvalidRequest.status, InternalError.status) == (409, 422, 500)
