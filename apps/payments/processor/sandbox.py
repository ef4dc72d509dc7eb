"""Cards with a fixed behaviour, by first six and last four digits. The table is published in docs/sandbox-cards.md."""

from dataclasses import dataclass
from enum import Enum


class Fault(Enum):
    """What goes wrong with the answer to an authorisation, or to a refund. The decision itself is made and stored."""

    NONE = "none"
    FIRST_ANSWER_LOST = "first answer lost"  # asked again, it answers
    ANSWERED_TWICE = "answered twice"
    ANSWERED_AFTER_VOID = "answered after the void"  # silent until the caller gives up, then too late


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a card does: the code and message of its decline, or nothing special."""

    decline: tuple[str, str] | None = None
    refuses_capture: bool = False
    refuses_refund: bool = False
    fault: Fault = Fault.NONE
    fault_of: str = "authorise"  # the kind of operation whose answer it is


NORMAL = Behaviour()

_CARDS = {
    ("400000", "0002"): Behaviour(decline=("card_declined", "The card was declined.")),
    ("400000", "9995"): Behaviour(decline=("insufficient_funds", "The card has insufficient funds.")),
    ("400000", "0069"): Behaviour(decline=("expired_card", "The card has expired.")),
    ("400000", "0341"): Behaviour(refuses_capture=True),
    ("400000", "1000"): Behaviour(fault=Fault.FIRST_ANSWER_LOST),
    ("400000", "2008"): Behaviour(fault=Fault.ANSWERED_TWICE),
    ("400000", "3006"): Behaviour(fault=Fault.ANSWERED_AFTER_VOID),
    ("400000", "5126"): Behaviour(refuses_refund=True),
    ("400000", "7726"): Behaviour(fault=Fault.FIRST_ANSWER_LOST, fault_of="refund"),
    ("400000", "8054"): Behaviour(fault=Fault.ANSWERED_TWICE, fault_of="refund"),
}


def behaviour(card_bin: str, card_last4: str) -> Behaviour:
    """How this card behaves: any card that is not in the table is a good one."""
    return _CARDS.get((card_bin, card_last4), NORMAL)
