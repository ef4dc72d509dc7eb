"""``manage.py ledger_import FILE``: post a file of entries, as at a migration or from another system."""

import csv
import json
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as AnyDatabaseError
from django.utils import timezone

from apps.common.errors import DomainError
from apps.common.processes import stopped_as_by_ctrl_c
from apps.ledger.entry_files import OPTIONAL, REQUIRED, Contents, EntryFile, FileRefused, Refused, open_entries
from apps.ledger.imports import Tally, post_file
from apps.ledger.rules import BATCH_LINES_MAX

TELL_S = 1.0  # between two words about how far it is
REFUSED_SHOWN = 20
SOME_REFUSED, BROKE_OFF = 1, 2  # exit codes
AGAIN = "Run it again with the same file: what is posted is not posted twice."


def _rows(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= len(text) <= 5 and 1 <= int(text) <= BATCH_LINES_MAX:
        return int(text)
    raise ArgumentTypeError(f"a batch holds 1 to {BATCH_LINES_MAX:,} rows")


class Command(BaseCommand):
    help = (
        "Post a file of entries: CSV in UTF-8, with commas or semicolons as its first line has them. "
        f"Columns, in any order: {', '.join(REQUIRED)}; perhaps {', '.join(OPTIONAL)}. "
        "Rows that follow each other with the same tracekey are the legs of one entry. The whole file is read first, and "
        "nothing is posted when a row is malformed. Then each batch is a commit of its own; entries that the ledger "
        "refuses are told, and the others are posted. Safe to repeat, which is also how to go on after it broke off. Ends "
        "with 0 when all is posted, with 1 when something was refused, with 2 when the file is malformed or it broke off."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE", help="a regular file: it is read twice")
        parser.add_argument(
            "--batch", type=_rows, default=1_000, metavar="N", help=f"rows of a commit, 1 to {BATCH_LINES_MAX:,} (1000)"
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="post nothing, and tell what the ledger would answer; no batch counts what those before it would change",
        )
        parser.add_argument(
            "--refused",
            type=Path,
            metavar="FILE",
            help=f"write a CSV of what is refused: line, tracekey, code, reason, field (else {REFUSED_SHOWN} on stderr)",
        )
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        work = _Import(self, options)
        try:
            with stopped_as_by_ctrl_c(), open_entries(options["file"]) as file, work.refusals():
                work.run(file)
        except FileRefused as refusal:
            work.end("malformed" if work.contents is None else "broke_off", f"{refusal.code} {refusal.detail}")
        except DomainError as refusal:
            work.end("broke_off", f"{refusal.code} {refusal.detail}")
        except KeyboardInterrupt:
            work.end("broke_off", "Interrupted.")
        except (AnyDatabaseError, OSError) as error:
            work.end("broke_off", str(error).strip() or type(error).__name__)
        else:
            work.end("done", "")


class _Import:
    """One call of the command: what it was asked for, what it tells, and how it ends."""

    def __init__(self, command: Command, options: dict[str, Any]) -> None:
        self.options = options
        self.stdout, self.stderr = command.stdout, command.stderr
        self.contents: Contents | None = None  # of a file that is well formed
        self.mistakes, self.tally = Tally(), Tally()
        self.shown: list[Refused] = []
        self.list: TextIO | None = None  # of what is refused
        self.began = self.told = time.monotonic()
        self.phase_began = self.began

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """The file of what is refused, opened before anything is posted, and complete up to the last batch."""
        path: Path | None = self.options["refused"]
        if path is None:
            yield
            return
        try:
            if path.exists() and path.samefile(self.options["file"]):
                raise FileRefused("--refused would overwrite the file of entries.")
            file = path.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise FileRefused(f"{path} cannot be written: {error.strerror}.") from None
        with file:
            csv.writer(file).writerow(Refused._fields)
            self.list = file
            yield

    def run(self, file: EntryFile) -> None:
        """Check all, then post all. Raises FileRefused when a row is malformed."""
        size = max(self.options["file"].stat().st_size, 1)
        contents = file.check(
            note=self._note_mistake,
            tell=lambda rows: self._tell("checked", rows, file.bytes_read / size),
        )
        if self.mistakes.refused:
            raise FileRefused(f"{self.mistakes.refused:,} entries or rows are malformed.")
        self.contents, self.phase_began = contents, time.monotonic()
        post_file(
            file,
            self.tally,
            rows_max=self.options["batch"],
            dry=self.options["dry_run"],
            note=self._note,
            tell=self._after_batch,
            clock=timezone.now,
        )

    def _note_mistake(self, mistake: Refused) -> None:
        self.mistakes.note(mistake)
        self._note(mistake)

    def _note(self, refused: Refused) -> None:
        if len(self.shown) < REFUSED_SHOWN:
            self.shown.append(refused)
        if self.list:
            csv.writer(self.list).writerow(refused)

    def _after_batch(self, tally: Tally) -> None:
        if self.list:
            self.list.flush()
        rows = self.contents.rows if self.contents else 1
        self._tell("tried" if self.options["dry_run"] else "answered", tally.rows, tally.rows / rows)

    def _tell(self, what: str, rows: int, part: float) -> None:
        now = time.monotonic()
        if now - self.told >= TELL_S:
            self.told = now
            per_s = rows / (now - self.phase_began)
            self.stderr.write(f"{rows:,} rows {what}, {min(part, 1):.0%}, {per_s:,.0f} a second")

    def end(self, outcome: str, error: str) -> None:
        """Say what came of it. Raises CommandError, or ends the process, unless all is posted."""
        seconds = time.monotonic() - self.began
        if self.list is None:
            for refused in self.shown:
                self.stderr.write(_line(refused))
            if (more := self.mistakes.refused + self.tally.refused - len(self.shown)) > 0:
                self.stderr.write(f"and {more:,} more: --refused FILE has them all")
        if self.options["json"]:
            self.stdout.write(json.dumps(self._document(outcome, error, seconds), indent=2))
        elif outcome != "malformed":
            self.stdout.write(self._text(seconds))
        if outcome == "malformed":
            raise CommandError(f"{error} Nothing was posted.", returncode=BROKE_OFF)
        if outcome == "broke_off":
            raise CommandError(f"{error}\nIt broke off. {AGAIN}", returncode=BROKE_OFF)
        if self.tally.refused:
            sys.exit(SOME_REFUSED)

    def _document(self, outcome: str, error: str, seconds: float) -> dict[str, Any]:
        tally, posting_s = self.tally, time.monotonic() - self.phase_began
        return {
            "outcome": outcome,
            "error": error,
            "dry_run": self.options["dry_run"],
            "entries": self.contents.entries if self.contents else None,
            "rows": self.contents.rows if self.contents else None,
            "posted": tally.posted,
            "repeated": tally.repeated,
            "refused": tally.refused,
            "retryable": tally.retryable,
            "malformed": self.mistakes.refused,
            "codes": dict(sorted((tally.codes or self.mistakes.codes).items())),
            "refusals": [{**each._asdict(), "tracekey": str(each.tracekey or "")} for each in self.shown],
            "tries_again": tally.tries,
            "check_seconds": round(seconds - posting_s, 3) if self.contents else round(seconds, 3),
            "seconds": round(seconds, 3),
            "rows_per_s": round(tally.rows / posting_s, 1) if self.contents else None,
        }

    def _text(self, seconds: float) -> str:
        tally = self.tally
        posted = "would be posted" if self.options["dry_run"] else "posted"
        whole = f" of {self.contents.entries:,}" if self.contents else ""
        per_s = tally.rows / (time.monotonic() - self.phase_began) if self.contents else 0
        lines = [
            f"{tally.entries:,}{whole} entries ({tally.rows:,} rows): {tally.posted:,} {posted}, "
            f"{tally.repeated:,} posted before, {tally.refused:,} refused",
            f"{seconds:.2f} s, {per_s:,.0f} rows a second once the file was checked",
        ]
        if tally.codes:
            codes = ", ".join(f"{count:,} by {code}" for code, count in tally.codes.most_common())
            soon = f"; {tally.retryable:,} of them may be posted later as they are" if tally.retryable else ""
            lines.append(f"refused: {codes}{soon}. When its cause is gone, the same command posts what is missing.")
        return "\n".join(lines)


def _line(refused: Refused) -> str:
    where = f"line {refused.line}" + (f", {refused.tracekey}" if refused.tracekey else "")
    return f"{where}: {refused.code} {refused.reason}"
