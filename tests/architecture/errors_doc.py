"""docs/errors.md is made from the error classes; its last column is written by hand and kept.

``python -m tests.architecture.errors_doc --write`` brings the page up to date.
"""

import importlib
import os
import pkgutil
import re
import sys
import warnings
from pathlib import Path

from apps.common.errors import DomainError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
TO_DO = "(to be written)"
AREAS = {
    "R0": "Common",
    "R1": "Ledger",
    "R2": "Payments",
    "R3": "Orders",
    "R4": "Fiscal documents",
    "R5": "Saga",
    "R6": "Messaging",
    "R7": "Identity",
    "R8": "Customers",
    "R9": "Webhooks",
}
HEAD = """# Errors

Every refusal is a problem document (`application/problem+json`, RFC 9457) with a stable `code`. A code is never renamed and
never reused. `retryable` says whether the very same request may succeed later; then `Retry-After` says when to try.

This page is made from the error classes: `python -m tests.architecture.errors_doc --write`. Only the last column is
written by hand; a test compares the rest with the code.
"""
_COLUMNS = "| Code | Name | HTTP | Retryable | Meaning | What the caller does next |\n|---|---|---|---|---|---|"
_ROW = re.compile(r"^\| (R\d{3}) \|.*\| ([^|]+) \|$", re.MULTILINE)


def error_classes() -> list[type[DomainError]]:
    """Every refusal that our apps can give, by code."""
    import apps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a library may warn when it is imported; that is not this test's subject
        for module in pkgutil.walk_packages(apps.__path__, "apps."):
            if ".migrations" not in module.name:
                importlib.import_module(module.name)
    found: set[type[DomainError]] = set()
    waiting = [DomainError]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if kind.__module__.startswith("apps."):
                found.add(kind)
    return sorted(found, key=lambda kind: (kind.code, kind.__name__))


def row(kind: type[DomainError], next_step: str) -> str:
    """The line of one error."""
    retryable = "yes" if kind.retryable else "no"
    return f"| {kind.code} | {kind.__name__} | {kind.status} | {retryable} | {kind.title()} | {next_step} |"


def written_by_hand(page: str) -> dict[str, str]:
    """The last column of the page, by code."""
    return {code: text.strip() for code, text in _ROW.findall(page)}


def render(page: str) -> str:
    """The page as it should be, with the hand-written column of the page as it is."""
    next_steps = written_by_hand(page)
    parts = [HEAD]
    for prefix, area in AREAS.items():
        rows = [row(k, next_steps.get(k.code, TO_DO)) for k in error_classes() if k.code.startswith(prefix)]
        if rows:
            parts.append("\n".join([f"\n## {prefix}xx {area}\n", _COLUMNS, *rows, ""]))
    return "".join(parts)


def main() -> int:
    """Print the page, or write it."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()
    page = render(PAGE.read_text() if PAGE.exists() else "")
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page)
    else:
        sys.stdout.write(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
