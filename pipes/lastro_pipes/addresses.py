"""Names: ``domain.subdomain.service`` is a service's address, ``<address>.{in,compensate,error,event}`` are its topics."""

import re

IN, COMPENSATE, ERROR, EVENT = "in", "compensate", "error", "event"
WORD = re.compile(r"[a-z0-9_]+")
# The rule has three words; the talk's own example, gophercon.step1, has two.
ADDRESS = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+){1,2}")
TOPIC = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+){1,2}\.(in|compensate|error|event)")
NAME_CHARACTERS_MAX = 200  # Kafka's limit is 249, with the prefix


def topic(address: str, kind: str) -> str:
    """A service's topic of a kind."""
    return f"{address}.{kind}"


def is_address(text: object) -> bool:
    """Is it a service's address?"""
    return isinstance(text, str) and len(text) <= NAME_CHARACTERS_MAX and ADDRESS.fullmatch(text) is not None


def is_step(text: object) -> bool:
    """May it stand in ``meta.steps``: an address, or the last word of one?"""
    return is_address(text) or (isinstance(text, str) and len(text) <= 100 and WORD.fullmatch(text) is not None)


def resolve(step: str, *, beside: str) -> str:
    """The address of a step as it stands in a list: a single word is a service beside the one that reads it."""
    return step if "." in step else f"{beside.rsplit('.', 1)[0]}.{step}"
