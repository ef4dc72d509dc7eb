"""What stands around every page: the environment's name, the badges of the menu, and who may see what."""

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone

from apps.backoffice.components.formats import moment
from apps.fiscal_docs import public as fiscal
from apps.ledger import public as ledger
from apps.saga import public as saga

BADGE_MAX = 99  # three digits do not fit; the list behind it tells the number


def environment(request: HttpRequest) -> list[str] | None:
    """The label in the header: nobody may take a demo for production, or forget that the tax authority is passed over."""
    period = contingency_of(request) if request.user.is_authenticated else None
    if period is not None:
        return [f"Contingency since {moment(period.began_at, now=timezone.now()).text}", "danger"]
    return ["Embedded demo", "info"] if settings.EMBEDDED else None


def contingency_of(request: HttpRequest) -> fiscal.ContingencyPeriod | None:
    """The contingency that is on, asked for once in a request: the header of every page tells it."""
    if not hasattr(request, "contingency"):
        request.contingency = fiscal.contingency()  # type: ignore[attr-defined]
    return request.contingency  # type: ignore[attr-defined,no-any-return]


def triage_badge(_request: HttpRequest) -> str:
    """How many runs need a person; empty when none does. One count through the indexes of what is live or stuck."""
    return _badge(saga.runs_in_need_count(now=timezone.now()))


def differences_badge(_request: HttpRequest) -> str:
    """How many differences of the ledger nobody has looked into; empty when there are none."""
    return _badge(ledger.open_differences())


def _badge(count: int) -> str:
    if not count:
        return ""
    return f"{BADGE_MAX}+" if count > BADGE_MAX else str(count)
