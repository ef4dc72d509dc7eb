"""``manage.py saga_state [KEY]``: where does this order stop, and what is half done? Which runs are in error?"""

import json
from argparse import ArgumentParser
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.common.errors import DomainError
from apps.saga import archive, elsewhere
from apps.saga.elsewhere import Known
from apps.saga.filters import STATES, Filter, condition
from apps.saga.queries import RunState, as_json, find_run, found_run, run_state
from apps.saga.search import FoundRun, FoundRuns, find_runs
from apps.saga.waits import Wait

LIMIT_MAX = 500


class Command(BaseCommand):
    """Print a run and its steps, or a list of runs."""

    help = (
        "Print the state of a run and of its steps, by run id, order id, global id, business key or Idempotency-Key. By "
        "the id of a payment or a refund: of the run that asked for it; a merchant's own has none: what was asked. "
        "Without a key: the runs that meet the conditions, newest first."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("key", nargs="?", help="run id, order id, global id, business key or Idempotency-Key")
        parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
        parser.add_argument("--use-case", default="")
        parser.add_argument("--state", default="", help=f"one of {', '.join(STATES)}")
        parser.add_argument("--step", default="", help="where the run is, or failed")
        parser.add_argument("--error-code", default="")
        parser.add_argument("--waiting-for", default="", help="a partner's name")
        parser.add_argument("--older-than", type=int, metavar="SECONDS", help="began so long ago, or earlier")
        parser.add_argument("--attribute", action="append", default=[], help="customer_id=…, 'amount>=100'; repeatable")
        parser.add_argument("--limit", type=int, default=50, help="runs to tell, 1 to 500; default 50")
        parser.add_argument("--cursor", help="what the page before said")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        if options["key"] is not None:
            self._one(options["key"], as_text=not options["json"], now=now)
            return
        try:
            page = _page(options, now=now)
        except DomainError as refusal:
            raise CommandError(f"{refusal.code} {refusal.detail}") from refusal
        self.stdout.write(json.dumps(_page_json(page), indent=2) if options["json"] else _page_text(page, now=now))

    def _one(self, key: str, *, as_text: bool, now: datetime) -> None:
        state = find_run(key)
        others = elsewhere.known(key) if state is None else ()
        state = state or next(filter(None, (run_state(each.run_id) for each in others if each.run_id)), None)
        found = found_run(state.run_id, now=now) if state is not None else None
        if state is None or found is None:
            self._elsewhere(key, others, as_text=as_text)
            return
        told = {**as_json(state), **_standing_json(found)}
        self.stdout.write(_text(state, found) if as_text else json.dumps(told, indent=2))

    def _elsewhere(self, key: str, others: tuple[Known, ...], *, as_text: bool) -> None:
        if not others:
            raise CommandError(_archived(key) or f"No run is known by {key}.")
        told = {"run_id": None, "known": [each.body for each in others]}
        lines = [line for each in others for line in each.lines]
        self.stdout.write("\n".join(lines) if as_text else json.dumps(told, indent=2))


def _page(options: dict[str, Any], *, now: datetime) -> FoundRuns:
    older = options["older_than"]
    wanted = Filter(
        use_case=options["use_case"],
        state=options["state"],
        step=options["step"],
        error_code=options["error_code"],
        waiting_for=options["waiting_for"],
        started_before=None if older is None else now - timedelta(seconds=older),
        conditions=tuple(condition(text, use_case=options["use_case"]) for text in options["attribute"]),
    )
    limit = min(max(options["limit"], 1), LIMIT_MAX)
    return find_runs(wanted, limit=limit, cursor=options["cursor"], now=now)


def _archived(given: str) -> str:
    """Where a run is that has been archived; empty when it is not known there by this id."""
    try:
        run_id = UUID(given)
    except ValueError:
        return ""
    path = archive.find(Path(settings.SAGA_ARCHIVE_DIR), run_id) if settings.SAGA_ARCHIVE_DIR else None
    return f"The run was archived: {path} in the folders of {settings.SAGA_ARCHIVE_DIR}." if path else ""


# --- JSON ---------------------------------------------------------------------------------------------------------------
def _standing_json(run: FoundRun) -> dict[str, Any]:
    wait, promise = run.wait, run.promise
    return {
        "step": run.step,
        "amount": None if run.amount is None else str(run.amount),
        "waits_for": wait and {"kind": wait.kind, "whom": wait.whom, "until": wait.until and wait.until.isoformat()},
        "sla": promise and {"standing": promise.standing, "deadline_at": promise.deadline_at.isoformat()},
    }


def _page_json(page: FoundRuns) -> dict[str, Any]:
    runs = [
        {
            "run_id": str(run.run_id),
            "use_case": run.use_case,
            "business_key": run.business_key,
            "status": run.status,
            "failed_step": run.failed_step,
            "error_code": run.error_code,
            "started_at": run.started_at.isoformat(),
            **_standing_json(run),
        }
        for run in page.rows
    ]
    return {"runs": runs, "total": page.total_text, "amount": str(page.amount), "next_cursor": page.next_cursor}


# --- Text ---------------------------------------------------------------------------------------------------------------
def _waits(wait: Wait | None) -> str:
    if wait is None:
        return ""
    until = f" until {wait.until.isoformat(timespec='seconds')}" if wait.until else ""
    whom = f" {wait.whom}" if wait.whom else ""
    return f"waits for {wait.kind}:{whom}{until}"


def _text(state: RunState, found: FoundRun) -> str:
    lines = [f"{state.use_case} v{state.version}  run {state.run_id}  {state.business_key}: {state.status}"]
    if state.error_code:
        lines.append(f"  because {state.failed_step} said {state.error_code}: {state.error_detail}")
    if found.wait is not None:
        standing = f", {found.promise.standing} its SLA" if found.promise else ""
        lines.append(f"  {_waits(found.wait)}{standing}")
    lines += [
        f"  key {lock.key}: {'held' if lock.held else f'held by run {lock.holder}, {lock.ahead} before it'}"
        for lock in state.locks
    ]
    for step in state.steps:
        when = step.started_at.isoformat(timespec="milliseconds") if step.started_at else "never begun"
        undo = f", {step.undo_attempts} to undo" if step.undo_attempts else ""
        lines.append(f"  {step.status:<12} {step.name:<22} {step.kind:<12} {step.attempts} attempts{undo}  {when}")
    lines += [
        f"  {child.status:<12} run {child.run_id}, branch {child.branch or '-'} of {child.step}" for child in state.children
    ]
    return "\n".join(lines)


def _page_text(page: FoundRuns, *, now: datetime) -> str:
    lines = [f"{page.total_text} runs, {page.amount} at risk"]
    for run in page.rows:
        age = timedelta(seconds=int((now - run.started_at).total_seconds()))
        error = f"  {run.failed_step} {run.error_code}" if run.error_code else ""
        where = run.step or "-"
        lines.append(
            f"{run.run_id}  {run.status:<12} {where:<22} {age}  {run.business_key}{error}  {_waits(run.wait)}".rstrip()
        )
    if page.next_cursor:
        lines.append(f"more: --cursor {page.next_cursor}")
    return "\n".join(lines)
