"""``manage.py saga_state ID``: where does this order stop, and what is half done?"""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.saga import archive
from apps.saga.queries import RunState, as_json, run_state, run_state_by_key


class Command(BaseCommand):
    """Print a run and its steps."""

    help = "Print the state of a run and of its steps, by run id, order id, global id or business key."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", help="run id, order id, global id or business key")
        parser.add_argument("--json", action="store_true", help="one JSON object instead of text")

    def handle(self, *args: Any, **options: Any) -> None:
        state = _find(options["id"])
        if state is None:
            raise CommandError(_archived(options["id"]) or f"No run is known by {options['id']}.")
        self.stdout.write(json.dumps(as_json(state), indent=2) if options["json"] else _text(state))


def _find(given: str) -> RunState | None:
    try:
        return run_state(UUID(given))
    except ValueError:
        return run_state_by_key(given)


def _archived(given: str) -> str:
    """Where a run is that has been archived; empty when it is not known there by this id."""
    try:
        run_id = UUID(given)
    except ValueError:
        return ""
    path = archive.find(Path(settings.SAGA_ARCHIVE_DIR), run_id) if settings.SAGA_ARCHIVE_DIR else None
    return f"The run was archived: {path} in the folders of {settings.SAGA_ARCHIVE_DIR}." if path else ""


def _text(state: RunState) -> str:
    lines = [f"{state.use_case} v{state.version}  run {state.run_id}  {state.business_key}: {state.status}"]
    if state.error_code:
        lines.append(f"  because {state.failed_step} said {state.error_code}: {state.error_detail}")
    for step in state.steps:
        when = step.started_at.isoformat(timespec="milliseconds") if step.started_at else "never begun"
        undo = f", {step.undo_attempts} to undo" if step.undo_attempts else ""
        lines.append(f"  {step.status:<12} {step.name:<22} {step.kind:<12} {step.attempts} attempts{undo}  {when}")
    return "\n".join(lines)
