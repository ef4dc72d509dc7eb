"""Expected answers have a code; bugs crash.

A code is R + three digits: R0xx common, R1xx ledger, R2xx payments, R3xx orders, R4xx fiscal documents, R5xx saga,
R6xx messaging, R7xx identity, R8xx customers, R9xx webhooks. Each is documented in docs/errors.md; a test keeps them
unique.
"""

from typing import ClassVar


class DomainError(Exception):
    """The request was understood, and refused."""

    code: ClassVar[str] = "R000"
    status: ClassVar[int] = 409  # what HTTP says; 422 is kept for malformed requests
    retryable: ClassVar[bool] = False  # may the very same request succeed later?
    # Is it over by itself, whatever was asked for? Then it is no refusal of this request, and who repeats does not count.
    passes: ClassVar[bool] = False
    retry_after_s: int = 1  # of a retryable one
    stops_queue: bool = False  # would whatever comes next from a queue end the same? Then the queue waits

    def __init__(self, detail: str | None = None, *, field: str | None = None) -> None:
        """``detail`` tells this occurrence, by default the class's docstring; ``field`` names the culprit."""
        self.detail = detail or self.title()
        self.field = field
        super().__init__(self.detail)

    @classmethod
    def title(cls) -> str:
        """The first line of the class's docstring: what the code means, always the same."""
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0]


class InvalidRequest(DomainError):
    """The request is malformed: a field is missing, of the wrong type or out of range."""

    code, status = "R001", 422


class MalformedJson(DomainError):
    """The body is not valid JSON."""

    code, status = "R002", 400


class BodyTooLarge(DomainError):
    """The body is larger than the limit."""

    code, status = "R003", 413


class NotFound(DomainError):
    """There is no such object, or it is not yours."""

    code, status = "R004", 404


class MethodNotAllowed(DomainError):
    """This address does not answer to this method."""

    code, status = "R005", 405


class UnsupportedMediaType(DomainError):
    """The body's media type is not supported: send application/json."""

    code, status = "R006", 415


class NotAcceptable(DomainError):
    """None of the media types that you accept can be produced."""

    code, status = "R007", 406


class TooManyRequests(DomainError):
    """Too many requests: wait, then try again."""

    code, status, retryable = "R008", 429, True

    def __init__(self, detail: str | None = None, *, field: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(detail, field=field)
        self.retry_after_s = retry_after_s


class InternalError(DomainError):
    """Something broke on our side. Nothing was half done; the request id finds the cause in our logs."""

    code, status, retryable = "R009", 500, True


class Unauthenticated(DomainError):
    """The account or its secret is wrong or missing."""

    code, status = "R010", 401


class Forbidden(DomainError):
    """Your account may not do this."""

    code, status = "R011", 403


class DemoOnly(DomainError):
    """This makes up data, and is refused anywhere but in the embedded demo."""

    code = "R015"


class UnknownOutcome(Exception):
    """The other side may or may not have done it: ask before repeating. (Raised by words with the outside.)"""
