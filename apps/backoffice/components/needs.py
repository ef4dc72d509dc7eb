"""What needs a person, as the home page lists it."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something that needs a person: what, where, since when, worth how much, and the door to its rows."""

    title: str
    where: str
    since: datetime | None
    amount: Decimal | None
    who: str
    href: str
    door: str
    icon: str = "bad"
    tone: str = "bad"
