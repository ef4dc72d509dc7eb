"""What the OpenAPI document says of all addresses alike, and drf-spectacular cannot know."""

from typing import Any

from drf_spectacular.utils import OpenApiResponse

from apps.common.money import AMOUNT_TEXT
from apps.common.problems import CONTENT_TYPE, ProblemSerializer

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_WITH_A_BODY = {
    "400": "The body is not JSON (R002), or the Idempotency-Key is malformed (R014).",
    "413": "The body is larger than the limit (R003).",
    "415": "The body's media type is not application/json (R006).",
}
_ANY = {"422": "The address has a parameter that this operation has not, or has it twice (R001)."}
_WITH_AN_ACCOUNT = {
    "403": "The account may not do this: it lacks the scope (R702).",
    "429": "Too many failed logins from this address (R008). Retry-After says when to try again.",
}
_METHODS = frozenset({"get", "put", "post", "delete", "patch"})


def amount_schema(**number: Any) -> dict[str, Any]:
    """An amount that is sent. Without multipleOf: to a validator that reads floats, 19.99 is no multiple of 0.01."""
    text = {"type": "string", "pattern": f"^{AMOUNT_TEXT.pattern}$", "examples": ["10.50"]}
    return {"oneOf": [{"type": "number", **number, "examples": [10.5]}, text]}


def problem(description: str) -> OpenApiResponse:
    """A refusal, and what it means where it is listed."""
    return OpenApiResponse(ProblemSerializer, description)


def tell_refusals(result: dict[str, Any], **_more: Any) -> dict[str, Any]:
    """A postprocessing hook: refusals are problem documents, and those that any address may give are named."""
    for methods in result["paths"].values():
        for method, operation in methods.items():
            if method in _METHODS:
                operation["responses"] = _told(operation["responses"], has_body="requestBody" in operation)
    return result


def _told(responses: dict[str, Any], *, has_body: bool) -> dict[str, Any]:
    common = {**_ANY, **(_WITH_A_BODY if has_body else {}), **(_WITH_AN_ACCOUNT if "401" in responses else {})}
    told = {**{status: {"description": text} for status, text in common.items()}, **responses}
    for status, answer in told.items():
        if status >= "400":
            told[status] = {**answer, "content": {CONTENT_TYPE: {"schema": _PROBLEM}}}
    return dict(sorted(told.items()))
