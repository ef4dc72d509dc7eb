"""Whose a posting or a hold is: the order or the run that its description or its key names."""

import re
from dataclasses import dataclass
from uuid import UUID

from apps.backoffice.components.formats import short_id
from apps.common.doors import address

# How the journeys call what they post, and whose hold it is: "<run>:<step>", and "~<time>" when it was begun anew.
_ORDER = re.compile(r"Order ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_STEP = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):[0-9]+(?:~[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What to call it, and where it leads: empty when nowhere. ``whole``: the text when it is shortened."""

    text: str
    href: str = ""
    whole: str = ""


def order_of(description: str) -> UUID | None:
    """The order that a description names."""
    found = _ORDER.fullmatch(description)
    return UUID(found[1]) if found else None


def run_of_key(key: str) -> UUID | None:
    """The run whose step made this hold."""
    found = _STEP.fullmatch(key)
    return UUID(found[1]) if found else None


def told_of(description: str, otherwise: str) -> Told:
    """What a line or a hold is called: its description, else its event or its key."""
    order, run = order_of(description), run_of_key(otherwise) if not description else None
    if order is not None:
        whole = str(order)
        return Told(text=f"Order {short_id(whole)}", href=address("orders_order_change", whole), whole=whole)
    if run is not None:
        return Told(text=f"Run {short_id(run)}", href=address("backoffice_run", run), whole=otherwise)
    return Told(text=description or otherwise or "no description")
