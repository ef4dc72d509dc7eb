"""How fresh an answer has to be, and how fresh it is, in HTTP's words: ``min_lsn``, ``Ledger-Lsn``, ``Ledger-Source``."""

from collections.abc import Callable
from typing import TypeVar

from django.http.response import HttpResponseBase
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from apps.ledger.public import Answer, ask, check_lsn, written_lsn

T = TypeVar("T")
R = TypeVar("R", bound=HttpResponseBase)

# For the OpenAPI document: what questions take and answer, and what writes answer.
QUESTION = (
    OpenApiParameter(
        "min_lsn",
        str,
        description=(
            "A replica may answer if it knows this write (its Ledger-Lsn), or, with 0/0, whatever it knows. "
            "Absent: the primary answers."
        ),
    ),
    OpenApiParameter(
        "Ledger-Source", str, OpenApiParameter.HEADER, response=[200], description="Who answered: primary or replica."
    ),
    OpenApiParameter(
        "Ledger-Lsn",
        str,
        OpenApiParameter.HEADER,
        response=[200],
        description=(
            "Shown as the next question's min_lsn, it keeps that answer from being older. Told only to whoever shows one, "
            "and where there is a replica."
        ),
    ),
)
WRITE = OpenApiParameter(
    "Ledger-Lsn",
    str,
    OpenApiParameter.HEADER,
    response=[200, 201],
    description="Shown as a question's min_lsn, it lets a replica answer that knows this write. Absent without a replica.",
)


def ask_for(request: Request, question: Callable[[], T]) -> Answer[T]:
    """Put a question where this request allows. Raises InvalidRequest for a ``min_lsn`` that is none."""
    text = request.query_params.get("min_lsn")
    return ask(question, min_lsn=None if text is None else check_lsn(text))


def tell(response: R, answer: Answer[T]) -> R:
    """Say where the answer was found; shown as ``min_lsn``, its position keeps the next answer from being older."""
    response["Ledger-Source"] = answer.source
    if answer.lsn is not None:
        response["Ledger-Lsn"] = answer.lsn
    return response


def tell_written(response: R) -> R:
    """Say which position has what this request wrote. Costs a statement, and only where there is a replica."""
    if (lsn := written_lsn()) is not None:
        response["Ledger-Lsn"] = lsn
    return response
