"""Why somebody does something by hand: a field that every form of the back office asks for."""

from typing import Any

from django import forms

REASON_CHARACTERS_MAX = 500


def reason_field(
    *, kept: str = "Say why: the audit keeps it.", max_length: int = REASON_CHARACTERS_MAX, **options: Any
) -> forms.CharField:
    """A few words at least. ``kept``: what is said when it is missing."""
    said = {"required": kept, "min_length": "Say it in a few words."}
    return forms.CharField(min_length=5, max_length=max_length, error_messages=said, **options)
