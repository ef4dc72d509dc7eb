"""How a state looks, on the pages of all apps."""

from typing import NamedTuple


class Look(NamedTuple):
    """``tone`` names the colours (ok, run, warn, bad, undo, idle, unk), ``icon`` the shape, ``word`` what is said."""

    tone: str
    icon: str
    word: str
