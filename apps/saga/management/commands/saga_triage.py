"""``manage.py saga_triage``: what broke, is it growing, what is it worth? And what a person does about it."""

import json
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga import bulk, selection
from apps.saga.audit import command_actor
from apps.saga.bulk_state import ActionState, action_items, action_state
from apps.saga.filters import STATES, Filter, condition
from apps.saga.incidents import IncidentQuestion, IncidentState, incidents
from apps.saga.selection import Preview, Selection
from apps.saga.triage import Action, Wanted, wanted

ITEMS_TOLD = 50  # of a dry run or an action; the API tells all of them
_ARGUMENTS = ("run", "incident", "use_case", "state", "step", "error_code", "older_than", "attribute")


class Command(BaseCommand):
    """List incidents; retry, undo, skip or close runs."""

    help = "List the incidents (errors of one kind, with the runs that they affect now), or do something about runs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        which = parser.add_subparsers(dest="what")
        told = which.add_parser("list", help="the incidents, those seen last first (the default)")
        told.add_argument("--status", choices=["open", "handled", "all"], default="open")
        told.add_argument("--use-case", default="")
        told.add_argument("--json", action="store_true", help="one JSON object a line")
        for action in Action:
            _add_action(which.add_parser(action.value, help=f"{action.value} runs"), action)
        show = which.add_parser("show", help="how far an action is, and what became of its runs")
        show.add_argument("action_id", type=UUID)
        approve = which.add_parser("approve", help="agree to an action of somebody else")
        approve.add_argument("action_id", type=UUID)
        cancel = which.add_parser("cancel", help="stop an action, or refuse one that waits for approval")
        cancel.add_argument("action_id", type=UUID)
        cancel.add_argument("--reason", required=True, help="why: the audit keeps it")

    def handle(self, *args: Any, **options: Any) -> None:
        what = options["what"] or "list"
        try:
            if what in list(Action):
                self._act(Action(what), options)
            else:
                {"list": self._list, "show": self._show, "approve": self._approve, "cancel": self._cancel}[what](options)
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from refusal

    # --- Incidents --------------------------------------------------------------------------------------------------------
    def _list(self, options: dict[str, Any]) -> None:
        status = {"open": "OPEN", "handled": "HANDLED", "all": ""}[options.get("status", "open")]
        found = incidents(IncidentQuestion(use_case=options.get("use_case", ""), status=status), limit=200)
        for each in found:
            self.stdout.write(_json(each) if options.get("json") else _line(each))
        if not found and not options.get("json"):
            self.stdout.write("No incident.")

    # --- Actions ----------------------------------------------------------------------------------------------------------
    def _act(self, action: Action, options: dict[str, Any]) -> None:
        now = timezone.now()
        which = _selection(options)
        what = wanted(action, patch=_object(options, "input"), output=_object(options, "output"))
        if options["dry_run"]:
            self._preview(selection.preview(which, what, now=now, runs_max=options["first"]))
            return
        if not options["reason"]:
            raise CommandError("Say why: --reason. Or look first: --dry-run.")
        self._ask(which, what, options)

    def _preview(self, dry: Preview) -> None:
        for each in dry.sums:
            self.stdout.write(f"{each.runs} x {each.code + ' ' if each.code else ''}{each.detail} ({each.amount})")
        for one in dry.outcomes[:ITEMS_TOLD]:
            self.stdout.write(f"{one.run_id}  {one.business_key}  {one.code + ' ' if one.code else ''}{one.detail}")
            for text in one.left:
                self.stdout.write(f"    {text}")
        approval = " A second person must approve it." if dry.needs_approval else ""
        self.stdout.write(f"{len(dry.outcomes)} runs, {dry.amount} at risk. Nothing was changed.{approval}")

    def _ask(self, which: Selection, what: Wanted, options: dict[str, Any]) -> None:
        now, by = timezone.now(), command_actor("saga_triage")
        action_id = bulk.request(which, what, reason=options["reason"], by=by, now=now, runs_max=options["first"])
        if action_state(action_id).runs <= bulk.INLINE_RUNS:
            bulk.work(action_id, now=now)
        self._show({"action_id": action_id})

    def _approve(self, options: dict[str, Any]) -> None:
        now = timezone.now()
        bulk.approve(options["action_id"], by=command_actor("saga_triage"), now=now)
        if action_state(options["action_id"]).runs <= bulk.INLINE_RUNS:
            bulk.work(options["action_id"], now=now)
        self._show(options)

    def _cancel(self, options: dict[str, Any]) -> None:
        bulk.cancel(options["action_id"], reason=options["reason"], by=command_actor("saga_triage"), now=timezone.now())
        self._show(options)

    def _show(self, options: dict[str, Any]) -> None:
        state = action_state(options["action_id"])
        self.stdout.write(_progress(state))
        items, _ = action_items(state.id, limit=ITEMS_TOLD)
        for item in items:
            said = f"{item.code} {item.detail}".strip()
            self.stdout.write(f"{item.run_id}  {item.business_key}  {item.status.lower()}  {said}")


def _add_action(parser: ArgumentParser, action: Action) -> None:
    parser.add_argument("--run", action="append", type=UUID, default=[], metavar="RUN", help="a run's id; repeatable")
    parser.add_argument("--incident", type=UUID, help="the runs that an incident affects now")
    parser.add_argument("--use-case", default="")
    parser.add_argument("--state", default="", help=f"one of {', '.join(STATES)}")
    parser.add_argument("--step", default="", help="where the run is, or failed")
    parser.add_argument("--error-code", default="")
    parser.add_argument("--older-than", type=int, metavar="SECONDS")
    parser.add_argument("--attribute", action="append", default=[], help="customer_id=…, 'amount>=100'; repeatable")
    parser.add_argument("--first", type=int, metavar="N", help="only so many of them")
    parser.add_argument("--reason", default="", help="why: the audit keeps it")
    parser.add_argument("--dry-run", action="store_true", help="tell what would become of each run, and change nothing")
    if action is Action.RETRY:
        parser.add_argument("--input", help="a change of the runs' input: a JSON object that is merged into it")
    if action is Action.SKIP:
        parser.add_argument("--output", help="the output of the step: a JSON object")


def _object(options: dict[str, Any], name: str) -> Any:
    text = options.get(name)
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        raise CommandError(f"--{name} is no JSON.") from None


def _selection(options: dict[str, Any]) -> Selection:
    if not any(options[name] for name in _ARGUMENTS):
        raise CommandError("Say which runs: --run, --incident, or conditions such as --use-case and --error-code.")
    if options["run"] or options["incident"]:
        return Selection(run_ids=tuple(options["run"]), incident_id=options["incident"])
    older = options["older_than"]
    return Selection(
        filter=Filter(
            use_case=options["use_case"],
            state=options["state"],
            step=options["step"],
            error_code=options["error_code"],
            started_before=None if older is None else timezone.now() - timedelta(seconds=older),
            conditions=tuple(condition(text, use_case=options["use_case"]) for text in options["attribute"]),
        )
    )


def _line(each: IncidentState) -> str:
    runs = f"{each.runs}" if each.runs_is_exact else f"{each.runs - 1}+"
    return (
        f"{each.id}  {each.status.lower()}  {each.error_code} at {each.step} of {each.use_case}: {runs} runs "
        f"({each.stuck} stuck), {each.amount} at risk, {each.count} failures, last {each.last_seen:%Y-%m-%d %H:%M:%S}  "
        f"{each.detail[:80]}"
    )


def _json(each: IncidentState) -> str:
    names = [name for name in IncidentState.__dataclass_fields__ if name != "total"]
    return json.dumps({name: getattr(each, name) for name in names}, default=str)


def _progress(state: ActionState) -> str:
    settled = ", ".join(
        f"{count} {word}"
        for word, count in (
            ("done", state.done),
            ("left alone", state.refused),
            ("failed", state.failed),
            ("cancelled", state.cancelled),
            ("pending", state.pending),
        )
        if count
    )
    waits = " It waits for a second person." if state.waits else ""
    return f"{state.id}  {state.action} {state.told}: {state.status.lower()}; {settled or 'no run'}.{waits}"
