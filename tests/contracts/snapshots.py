"""What others rely on, written down: the OpenAPI document. (The schemas of messages: ``manage.py verify_contracts``.)

``python -m tests.contracts.snapshots --write`` writes it again. Look at the difference before you commit it: a field
that disappears, or a type that changes, breaks somebody who is not in this repository.
"""

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
OPENAPI = FOLDER / "openapi.yaml"


def openapi() -> str:
    """The OpenAPI document as the API serves it."""
    from drf_spectacular.generators import SchemaGenerator
    from drf_spectacular.renderers import OpenApiYamlRenderer

    document = SchemaGenerator().get_schema(request=None, public=True)
    return OpenApiYamlRenderer().render(document, renderer_context={}).decode()


def read(text: str | bytes) -> dict[str, Any]:
    """What a document says. By libyaml: Python's own reader takes a second, in each worker and for each test that asks."""
    import yaml

    found: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)
    return found


@cache
def document() -> dict[str, Any]:
    """What the API serves, read once: for who only looks at it."""
    return read(openapi())


@cache
def written() -> dict[str, Any]:
    """What the snapshot says, read once: for who only looks at it."""
    return read(OPENAPI.read_text())


def main() -> int:
    """Write the snapshot with --write; say how to otherwise."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()
    if "--write" not in sys.argv[1:]:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    OPENAPI.write_text(openapi())
    return 0


if __name__ == "__main__":
    sys.exit(main())
