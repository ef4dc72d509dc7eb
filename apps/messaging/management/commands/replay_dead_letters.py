"""manage.py replay_dead_letters: look at what was buried, correct it, send it again. See docs/dead-letters.md."""

import getpass
import json
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management import BaseCommand, CommandError
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from apps.common.errors import DomainError
from apps.messaging import corrections, dead_letters, replay
from apps.messaging.corrections import Correction
from apps.messaging.dead_letters import Wanted
from apps.messaging.replay import Because, Prepared
from apps.observability.logs import mask_cards

COUNT_MAX = 10_000  # counted exactly
TABLE_ROWS_MAX = 50  # what a person reads; refused letters beyond them are shown too, as many again
REASON_SHOWN = 90
INTERRUPTED = 130  # what a shell says of a process that Ctrl-C ended


def _moment(text: str) -> datetime:
    day = parse_date(text)
    found = datetime.combine(day, time()) if day else parse_datetime(text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is not a day or a moment, as in 2026-11-21T12:30:00Z")
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _limit(text: str) -> int:
    number = int(text)
    if not 1 <= number <= replay.LETTERS_MAX:
        raise ArgumentTypeError(f"is from 1 to {replay.LETTERS_MAX}")
    return number


class Command(BaseCommand):
    """Edge: choose letters, show them, and with --apply send them again."""

    help = (
        "Show dead letters, oldest first, and send them again with --apply: to the topic they came from, and only for the "
        "group that buried them. What was replayed is left out from then on, so the command may be interrupted and "
        "repeated. Exit 1: some cannot be sent; 130: interrupted."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        choose = parser.add_argument_group("which dead letters")
        choose.add_argument("--topic", default="", help="the topic they came from, or its .error topic")
        choose.add_argument("--group", default="", help="the consumer group that buried them")
        choose.add_argument("--schema", default="", help="as in payments.card_result.v1")
        choose.add_argument("--code", help='as in R601; "" is an error without a code')
        choose.add_argument("--reason-contains", default="", help="words of the error, in any case")
        choose.add_argument("--since", type=_moment, help="buried from this day or moment on (UTC without an offset)")
        choose.add_argument("--until", type=_moment, help="buried before this day or moment")
        choose.add_argument("--message-id", type=UUID, action="append", default=[], help="of the letter or its original")
        choose.add_argument("--global-id", default="", help="of the business transaction")
        choose.add_argument("--limit", type=_limit, default=replay.LETTERS_USUAL, help="at most so many (%(default)s)")
        choose.add_argument(
            "--again",
            type=_moment,
            nargs="?",
            const=timezone.now(),
            metavar="BEFORE",
            help="also those that were replayed before, or only before this moment",
        )
        correct = parser.add_argument_group("corrections")
        correct.add_argument("--edit", metavar="FILE", help='"-" is standard input; in the form that --json writes')
        correct.add_argument("--set", metavar="PATH=JSON", action="append", default=[], help='body.amount="10.00", on all')
        act = parser.add_argument_group("what to do")
        what = act.add_mutually_exclusive_group()
        what.add_argument("--dry-run", action="store_true", help="only show what would be sent: the default")
        what.add_argument("--json", action="store_true", help="write key, meta and body of each, to be edited")
        what.add_argument("--apply", action="store_true", help="send them")
        act.add_argument("--reason", default="", help="why; it is kept with each replay")
        act.add_argument("--by", default="", help="who; by default the user of this process")

    def handle(self, *args: Any, **options: Any) -> None:
        reason = options["reason"].strip()
        if options["apply"] and not 1 <= len(reason) <= replay.REASON_CHARACTERS_MAX:
            raise CommandError(f"--apply needs a --reason of 1 to {replay.REASON_CHARACTERS_MAX} characters: it is kept.")
        because = Because(
            by=(options["by"] or _user())[:200], reason=reason, now=timezone.now(), replayed_before=options["again"]
        )
        try:
            correction = _correction(options)
            chosen = self._choose(_wanted(options, correction), correction, limit=options["limit"])
        except DomainError as refusal:
            raise CommandError(_told(refusal)) from None
        if options["json"]:
            self._write_json(chosen, correction)
        elif chosen:
            self._show_and_send(chosen, correction, because, apply=options["apply"])

    def _choose(self, wanted: Wanted, correction: Correction, *, limit: int) -> list[UUID]:
        number = dead_letters.count(wanted, rows_max=COUNT_MAX)
        words = f"more than {COUNT_MAX:,}" if number > COUNT_MAX else f"{number:,}"
        taken = f"; the {limit:,} oldest are taken (--limit)" if number > limit else ""
        self.stderr.write(f"{words} dead letters match{taken}.", self.style.SUCCESS)
        return correction.restrict(list(dead_letters.find(wanted).values_list("message_id", flat=True)[:limit]))

    def _write_json(self, chosen: Sequence[UUID], correction: Correction) -> None:
        separator = "{"
        for one in replay.prepare(chosen, correction):
            self.stdout.write(f"{separator}\n{json.dumps(str(one.letter.id))}: ", ending="")
            self.stdout.write(json.dumps(corrections.written(one.draft), ensure_ascii=False, indent=2), ending="")
            separator = ","
        self.stdout.write("\n}" if separator == "," else "{}")

    def _show_and_send(self, chosen: Sequence[UUID], correction: Correction, because: Because, *, apply: bool) -> None:
        refusals = self._show(chosen, correction)
        fit = len(chosen) - len(refusals)
        if refusals and correction:
            first, refusal = refusals[0]
            raise CommandError(f"Nothing was sent. {_told(refusal)} (letter {first.letter.id})")
        if apply:
            self._send(chosen, correction, because, fit=fit)
        else:
            self.stdout.write(f"Nothing was sent. With --apply --reason TEXT, {fit:,} of {len(chosen):,} would be.")
        if refusals:
            raise CommandError(f"{len(refusals):,} of {len(chosen):,} cannot be sent as they are: correct or exclude them.")

    def _show(self, chosen: Sequence[UUID], correction: Correction) -> list[tuple[Prepared, DomainError]]:
        rows: list[tuple[str, ...]] = [("LETTER", "BURIED", "GROUP", "TOPIC", "KEY", "SCHEMA", "CODE", "TRIES", "WHAT")]
        refusals: list[tuple[Prepared, DomainError]] = []
        for number, one in enumerate(replay.prepare(chosen, correction)):
            if one.refusal is not None:
                refusals.append((one, one.refusal))
            if number < TABLE_ROWS_MAX or (one.refusal is not None and len(refusals) <= TABLE_ROWS_MAX):
                rows.append(_columns(one))
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        for row in rows:
            self.stdout.write("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        if len(chosen) > len(rows) - 1:
            self.stdout.write(f"… and {len(chosen) - len(rows) + 1:,} more")
        return refusals

    def _send(self, chosen: Sequence[UUID], correction: Correction, because: Because, *, fit: int) -> None:
        sent = 0
        try:
            for number in replay.replay(chosen, correction, because):
                sent += number
                self.stdout.write(f"sent {sent:,} of {fit:,}")
        except KeyboardInterrupt:
            again = f" Repeat it with --again {because.replayed_before.isoformat()}." if because.replayed_before else ""
            raise CommandError(
                f"Interrupted. {sent:,} are on their way; the same command goes on with the rest.{again}",
                returncode=INTERRUPTED,
            ) from None
        if sent < fit:
            self.stdout.write(f"{fit - sent:,} were sent by somebody else meanwhile.")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return "unknown"


def _correction(options: dict[str, Any]) -> Correction:
    made = Correction()
    if options["edit"]:
        made = corrections.read_edit(_bytes(options["edit"]))
    return Correction(made.of_the_one, made.by_id, [corrections.read_value(text) for text in options["set"]])


def _bytes(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(corrections.EDIT_BYTES_MAX + 1)
    try:
        with Path(name).open("rb") as file:
            return file.read(corrections.EDIT_BYTES_MAX + 1)
    except OSError as error:
        raise CommandError(f"--edit: {error}") from None


def _wanted(options: dict[str, Any], correction: Correction) -> Wanted:
    same = ("topic", "group", "schema", "code", "reason_contains", "since", "until", "global_id")
    ids = tuple(options["message_id"]) or tuple(correction.by_id)
    return Wanted(**{name: options[name] for name in same}, ids=ids, replayed_before=options["again"])


def _told(refusal: DomainError) -> str:
    return f"{refusal.code}{f' {refusal.field}' if refusal.field else ''}: {refusal.detail}"


def _columns(one: Prepared) -> tuple[str, ...]:
    letter = one.letter
    what = f"corrects {', '.join(one.corrected)}" if one.corrected else " ".join(mask_cards(letter.reason).split())
    if one.refusal is not None:
        what = f"CANNOT BE SENT: {_told(one.refusal)}"
    elif len(what) > REASON_SHOWN:
        what = f"{what[:REASON_SHOWN]}…"
    buried = letter.buried_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return (
        str(letter.id),
        buried,
        letter.group,
        letter.topic,
        letter.key,
        letter.schema,
        letter.code or "-",
        str(letter.attempts),
        what,
    )
