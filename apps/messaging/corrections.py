"""Corrections of dead letters, before they are sent again: whole parts from a file, or single values.

A part is ``key``, ``body`` or one of the meta's names below; the rest of the meta belongs to the post office.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from apps.common.errors import DomainError

META = {"schema": str, "global-id": str, "steps": list, "trace": str, "reply-to": str}
PARTS = {"key": str, "meta": dict, "body": object}
EDIT_BYTES_MAX = 20_000_000  # of a file: some twenty of the largest messages, or thousands of usual ones
CORRECTED_MAX = 50  # places that a replay's row names
_INDEX = re.compile("[0-9]{1,9}")


class UnfitCorrection(DomainError):
    """The correction does not fit the dead letter."""

    code, status = "R603", 422


@dataclass(frozen=True, slots=True)
class Draft:
    """What of a message can be corrected."""

    key: str
    meta: Mapping[str, Any]
    body: Any


@dataclass(frozen=True, slots=True)
class Correction:
    """``of_the_one``: parts of the only letter that is selected; ``by_id``: of these letters; ``values``: of all."""

    of_the_one: Mapping[str, Any] = field(default_factory=dict)
    by_id: Mapping[UUID, Mapping[str, Any]] = field(default_factory=dict)
    values: Sequence[tuple[tuple[str, ...], Any]] = ()

    def __bool__(self) -> bool:
        return bool(self.of_the_one or self.by_id or self.values)

    def restrict(self, letter_ids: Sequence[UUID]) -> list[UUID]:
        """Those of the selected letters that are sent: where a file names letters, those. Raises UnfitCorrection."""
        if self.of_the_one and len(letter_ids) != 1:
            raise UnfitCorrection(
                f"The file corrects one letter, and {len(letter_ids)} are selected. "
                "Select it by --message-id, or give an object of letter ids and corrections."
            )
        if absent := set(self.by_id) - set(letter_ids):
            raise UnfitCorrection(f"{min(absent)} is not among the letters that are selected. Was it replayed before?")
        return [one for one in letter_ids if one in self.by_id] if self.by_id else list(letter_ids)

    def apply(self, letter_id: UUID, draft: Draft) -> Draft:
        """The corrected draft. Raises UnfitCorrection, which names the place."""
        parts = self.by_id.get(letter_id, self.of_the_one)
        meta = {**draft.meta, **parts.get("meta", {})}
        made = Draft(parts.get("key", draft.key), meta, parts.get("body", draft.body))
        for path, value in self.values:
            made = _set(made, path, value)
        return made


def read_edit(text: bytes) -> Correction:
    """A file: one correction ``{"key", "meta", "body"}``, or an object of letter ids and such. Raises UnfitCorrection."""
    if len(text) > EDIT_BYTES_MAX:
        raise UnfitCorrection(f"The file is larger than {EDIT_BYTES_MAX} bytes.")
    found = _json(text, place="--edit")
    if not isinstance(found, dict) or not found:
        raise UnfitCorrection("The file is not a JSON object of corrections.")
    if set(found) <= set(PARTS):
        return Correction(of_the_one=_parts(found, place=""))
    return Correction(by_id={_id(name): _parts(parts, place=f"{name}.") for name, parts in found.items()})


def written(draft: Draft) -> dict[str, Any]:
    """The parts of a draft as ``read_edit`` takes them. Strangers' meta of another type is left out: it stays as it is."""
    meta = {name: draft.meta[name] for name in META if name in draft.meta and _fits(name, draft.meta[name])}
    return {"key": draft.key, "meta": meta, "body": draft.body}


def read_value(text: str) -> tuple[tuple[str, ...], Any]:
    """``body.legs[0].amount="10.00"``: a path and a JSON value. Raises UnfitCorrection."""
    path, sign, value = text.partition("=")
    names = tuple(path.replace("[", ".").replace("]", "").split("."))
    if not sign or not all(names):
        raise UnfitCorrection(f"{text!r} is not a path, =, and a JSON value.", field=path)
    found = _json(value.encode("utf-8", errors="replace"), place=path)
    if names[0] == "meta" and len(names) == 2:
        _check_meta({names[1]: found}, place="")
    elif names[0] != "body" and names != ("key",):
        raise UnfitCorrection(f"Only body, key and meta.{', meta.'.join(META)} can be set.", field=path)
    elif names == ("key",) and not isinstance(found, str):
        raise UnfitCorrection("A key is text.", field=path)
    return names, found


def corrected(before: Draft, after: Draft) -> list[str]:
    """Where two drafts differ, at most CORRECTED_MAX places: ``key``, ``meta.schema``, ``body.amount``."""
    found = ["key"] if before.key != after.key else []
    found += [f"meta.{name}" for name in META if before.meta.get(name) != after.meta.get(name)]
    if isinstance(before.body, dict) and isinstance(after.body, dict):
        names = dict.fromkeys([*before.body, *after.body])
        missing = object()
        found += [f"body.{n}" for n in names if before.body.get(n, missing) != after.body.get(n, missing)]
    elif before.body != after.body:
        found.append("body")
    return found[:CORRECTED_MAX]


def check_known(before: Any, after: Any, understood: Any) -> None:
    """A field that a correction adds must be one that the contract knows: readers ignore the others, so a slip of the pen
    would correct nothing. Raises UnfitCorrection."""
    unknown = set(_paths(after, "body")) - set(_paths(before, "body")) - set(_paths(understood, "body"))
    if unknown:
        first = min(unknown)
        raise UnfitCorrection(f"The contract has no field {first}: nobody would read it.", field=first)


def _paths(value: Any, path: str) -> Iterable[str]:
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _paths(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, f"{path}[]")


def _json(text: bytes, *, place: str) -> Any:
    # What JSON can say and nobody can keep is refused later, with the whole message.
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "" if place == "--edit" else " Text stands in double quotes."
        raise UnfitCorrection(f"{place} is not JSON: {error}.{hint}", field=place) from None


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        names = ", ".join(PARTS)
        raise UnfitCorrection(f"{text!r} is neither a letter's id nor one of {names}.", field=text) from None


def _parts(found: Any, *, place: str) -> dict[str, Any]:
    if not isinstance(found, dict) or not found:
        raise UnfitCorrection(f"{place.rstrip('.')} is not an object of {', '.join(PARTS)}.", field=place.rstrip("."))
    for name, value in found.items():
        if not isinstance(value, PARTS.get(name, ())):
            raise UnfitCorrection(
                f"{place}{name} is not one of {', '.join(PARTS)}, or of another type.", field=place + name
            )
    _check_meta(found.get("meta", {}), place=place)
    return found


def _fits(name: str, value: Any) -> bool:
    if isinstance(value, list):
        return name == "steps" and all(isinstance(step, str) for step in value)
    return isinstance(value, META.get(name, ()))


def _check_meta(meta: Mapping[str, Any], *, place: str) -> None:
    for name, value in meta.items():
        if not _fits(name, value):
            texts = ", ".join(name for name, kind in META.items() if kind is str)
            raise UnfitCorrection(
                f"{place}meta.{name} cannot be set to that. There are {texts}, all text, and steps, a list of texts.",
                field=f"{place}meta.{name}",
            )


def _set(draft: Draft, path: tuple[str, ...], value: Any) -> Draft:
    if path == ("key",):
        return replace(draft, key=value)
    if path[0] == "meta":
        return replace(draft, meta={**draft.meta, path[1]: value})
    return replace(draft, body=_changed(draft.body, path[1:], value, place="body"))


def _changed(old: Any, path: tuple[str, ...], value: Any, *, place: str) -> Any:
    """A copy with one value replaced; in an object it may be new."""
    if not path:
        return value
    name, rest = path[0], path[1:]
    if isinstance(old, dict) and (name in old or not rest):
        return {**old, name: _changed(old.get(name), rest, value, place=f"{place}.{name}")}
    if isinstance(old, list) and _INDEX.fullmatch(name) and int(name) < len(old):
        at = int(name)
        return [*old[:at], _changed(old[at], rest, value, place=f"{place}[{at}]"), *old[at + 1 :]]
    raise UnfitCorrection(f"There is no {place}.{name} to set.", field=f"{place}.{name}")
