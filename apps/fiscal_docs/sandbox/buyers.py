"""Buyers for whom the sandbox authority fails, by CPF: trouble without a script, as its cards are the processor's.

Published in docs/sandbox-cards.md. The check digits are right, so everybody else takes them for people.
"""

import threading
from collections import OrderedDict

AWAY = "00000010820"  # nothing is decided: 108, for ever
REFUSED = "00000023728"  # refused, for ever: 237
REFUSED_ONCE = "00000070483"  # refused (704) when its number is sent first, taken when it is sent again

KEYS_MAX = 10_000  # refused once, and remembered; who is forgotten is refused once more


class Once:
    """Access keys that were refused already. Forgotten at a restart, too."""

    def __init__(self) -> None:
        self._lock, self._keys = threading.Lock(), OrderedDict[str, None]()

    def is_first(self, key: str) -> bool:
        """Was this key never asked about? From now on it was."""
        with self._lock:
            if key in self._keys:
                return False
            self._keys[key] = None
            if len(self._keys) > KEYS_MAX:
                self._keys.popitem(last=False)
            return True


_once = Once()


def stopped(buyer: str) -> str:
    """The cStat with which the service decides nothing for this buyer, or an empty text."""
    return "108" if buyer == AWAY else ""


def refused(buyer: str, *, key: str) -> str:
    """The cStat with which this buyer's document is refused, or an empty text."""
    if buyer == REFUSED:
        return "237"
    return "704" if buyer == REFUSED_ONCE and _once.is_first(key) else ""
