"""What others rely on, written down: the OpenAPI document and the schemas of messages.

``python -m tests.contracts.snapshots --write`` writes both again. Look at the difference before you commit it: a field
that disappears, or a type that changes, breaks somebody who is not in this repository.
"""

import dataclasses
import importlib
import json
import os
import pkgutil
import sys
import typing
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
OPENAPI = FOLDER / "openapi.yaml"
MESSAGES = FOLDER / "messages.json"


def openapi() -> str:
    """The OpenAPI document as the API serves it."""
    from drf_spectacular.generators import SchemaGenerator
    from drf_spectacular.renderers import OpenApiYamlRenderer

    document = SchemaGenerator().get_schema(request=None, public=True)
    return OpenApiYamlRenderer().render(document, renderer_context={}).decode()


def messages() -> dict[str, Any]:
    """Every message of ours: its topic, and its fields with their types; a field with a default may be missing."""
    from apps.messaging import contracts
    from apps.messaging.contracts import base

    for module in pkgutil.walk_packages(contracts.__path__, f"{contracts.__name__}."):
        importlib.import_module(module.name)
    ours = {schema: kind for schema, kind in base._registry.items() if kind.__module__.startswith(f"{contracts.__name__}.")}
    return {schema: _message(kind) for schema, kind in sorted(ours.items())}


def _message(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    fields = {field.name: _field(field, hints[field.name]) for field in dataclasses.fields(kind)}
    return {"topic": kind.topic, "fields": fields}


def _field(field: "dataclasses.Field[Any]", hint: Any) -> str:
    missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    name = name.replace("decimal.", "").replace("datetime.", "").replace("uuid.", "")
    return name if missing else f"{name} = {field.default!r}"


def main() -> int:
    """Write the snapshots with --write; say how to otherwise."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()
    if "--write" not in sys.argv[1:]:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    OPENAPI.write_text(openapi())
    MESSAGES.write_text(json.dumps(messages(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
