"""Bindings to one line of XML. Loads nfelib.

xsdata's serializer asks a thousand fields of a document what they are, each time, and most of them are empty. Of the
layout's classes that is known once and for all: elements of texts, codes or groups in one namespace, and attributes. So
they are written here, to the byte as xsdata writes them (a test compares), in a quarter of the time. What holds anything
else is left to xsdata.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from xsdata.formats.dataclass.context import XmlContext
from xsdata.formats.dataclass.serializers import XmlSerializer
from xsdata.formats.dataclass.serializers.config import SerializerConfig

from apps.fiscal_docs.documents.archive import NAMESPACE

# One context for the process: xsdata studies a class before it writes it, which takes 13 ms for a document.
_XSDATA = XmlSerializer(context=XmlContext(), config=SerializerConfig(xml_declaration=False))
_UNUSUAL = str.maketrans("", "", "\t\n\r\"'")  # what an attribute, or a text, would need more than escape() for


class _Unplain(Exception):
    """A binding that only xsdata can write."""


class _Plan(NamedTuple):
    """How a class is written: fields with their names in XML."""

    attributes: tuple[tuple[str, str], ...]
    elements: tuple[tuple[str, str, bool], ...]  # and whether its namespace is the layout's


@cache
def _plan_of(kind: Any) -> _Plan:
    plan: dict[str, list[Any]] = {"Attribute": [], "Element": []}
    for field in fields(kind):
        what = str(field.metadata.get("type"))
        if what not in plan or "format" in field.metadata:
            raise _Unplain
        name = field.metadata.get("name") or field.name
        own = field.metadata.get("namespace") == NAMESPACE
        plan[what].append((field.name, name, own) if what == "Element" else (field.name, name))
    return _Plan(tuple(plan["Attribute"]), tuple(plan["Element"]))


def _text(value: Any) -> str:
    found = value.value if isinstance(value, Enum) else value
    if not isinstance(found, str) or found.translate(_UNUSUAL) != found:
        raise _Unplain
    return escape(found)


def _written(name: str, value: Any, declared: str = "") -> Iterator[str]:
    if not is_dataclass(value):
        text = _text(value)
        yield f"<{name}>{text}</{name}>" if text else f"<{name}/>"
        return
    kind: Any = type(value)
    plan = _plan_of(kind)
    given = [(label, getattr(value, field)) for field, label in plan.attributes]
    attributes = "".join(f' {label}="{_text(one)}"' for label, one in given if one is not None)
    inner = [part for field, label, own in plan.elements for part in _children(getattr(value, field), label, own)]
    yield f"<{name}{declared}{attributes}>{''.join(inner)}</{name}>" if inner else f"<{name}{declared}{attributes}/>"


def _children(value: Any, name: str, own: bool) -> Iterator[str]:
    if value is None:
        return
    if not own:
        raise _Unplain
    for one in value if isinstance(value, list) else (value,):
        yield from _written(name, one)


def one_line(binding: Any) -> str:
    """The XML without declaration and without blanks between tags."""
    try:
        return "".join(_written(type(binding).Meta.name, binding, f' xmlns="{NAMESPACE}"'))
    except _Unplain:
        return by_xsdata(binding)


def by_xsdata(binding: Any) -> str:
    """The same by the library."""
    return _XSDATA.render(obj=binding, ns_map={None: NAMESPACE})
