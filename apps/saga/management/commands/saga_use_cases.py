"""``manage.py saga_use_cases [NAME]``: who answers for what, and where the runs are; or a picture."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.common.errors import DomainError
from apps.saga.diagram import mermaid, svg
from apps.saga.usecases import UseCaseState, definition_for, use_case, use_cases


class Command(BaseCommand):
    """Print use cases."""

    help = "Print the use cases with their owners, versions, pauses and open runs; or, of one, a picture."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", nargs="?")
        parser.add_argument("--version-number", type=int, help="of the picture; the newest by default")
        picture = parser.add_mutually_exclusive_group()
        picture.add_argument("--mermaid", action="store_true", help="the picture as a Mermaid flowchart")
        picture.add_argument("--svg", action="store_true", help="the picture as an SVG")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.stdout.write(_told(options))
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from refusal


def _told(options: dict[str, Any]) -> str:
    if options["mermaid"] or options["svg"]:
        if options["name"] is None:
            raise CommandError("A picture is of one use case: give its name.")
        draw = mermaid if options["mermaid"] else svg
        return draw(definition_for(options["name"], options["version_number"]))
    found = use_cases() if options["name"] is None else (use_case(options["name"]),)
    return "\n".join(_text(state) for state in found)


def _text(state: UseCaseState) -> str:
    sla = f"target {state.sla.target}, deadline {state.sla.deadline}" if state.sla else "none"
    lines = [f"{state.name} v{state.version}  owner {state.owner}  SLA {sla}", f"  {state.description}"]
    for version in state.versions:
        known = "" if version.registered else "  NOT REGISTERED: nobody knows how its runs go on"
        lines.append(f"  v{version.version}: {version.live} live, {version.held} held, {version.stuck} stuck{known}")
    for pause in state.pauses:
        what = f"step {pause.step}" if pause.step else f"new runs {pause.mode}"
        lines.append(f"  PAUSED {what} by {pause.paused_by}: {pause.reason} ({pause.held} runs held)")
    return "\n".join(lines)
