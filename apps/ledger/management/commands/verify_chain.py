"""Prove the ledger's lines from the chain of their hashes. Ends with 1 when something was changed."""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as AnyDatabaseError

from apps.ledger.chain_proof import Proof, verify_chain

HASH_DIGITS = 64
BLOCKS_BETWEEN = 1_000  # lines of progress: about one in ten seconds


def parse_head(text: str) -> tuple[int, bytes]:
    """A noted head: number:hash. Raises CommandError for anything else."""
    number, colon, digits = text.partition(":")
    try:
        if not (colon and len(digits) == HASH_DIGITS and number.isascii() and number.isdigit()):
            raise ValueError
        return int(number), bytes.fromhex(digits)
    except ValueError:
        raise CommandError(f"{text!r} is not a head: give NUMBER:HASH as this command prints it.", returncode=2) from None


class Command(BaseCommand):
    help = (
        "Prove the ledger's lines from the chain of their hashes. Changes nothing. Ends with 1 when something was changed, "
        "with 2 when it could not look."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--from", dest="first", type=int, default=1, metavar="N", help="trust the blocks before N")
        parser.add_argument("--archive", type=Path, metavar="DIR", help="also read the files of detached months, in DIR")
        parser.add_argument(
            "--head", action="append", default=[], metavar="N:HASH", help="a head that was noted elsewhere; may be repeated"
        )
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["first"] < 1:
            raise CommandError("--from begins at 1.", returncode=2)
        told = 0

        def progress(done: int, whole: int) -> None:
            nonlocal told
            if done - told >= BLOCKS_BETWEEN:
                told = done
                self.stderr.write(f"{done} of {whole} blocks")

        heads = dict(map(parse_head, options["head"]))
        try:
            proof = verify_chain(first=options["first"], heads=heads, archive=options["archive"], progress=progress)
        except AnyDatabaseError as error:  # with 1 it would say that something was changed
            raise CommandError(f"The proof broke off: {error}", returncode=2) from error
        self.stdout.write(json.dumps(_document(proof), indent=2) if options["json"] else _text(proof))
        if proof.damages:
            sys.exit(1)


def _document(proof: Proof) -> dict[str, Any]:
    return {
        "blocks": proof.blocks,
        "lines": proof.lines,
        "head": str(proof.head) if proof.head else None,
        "by_parts": [f"{month:%Y-%m}" for month in sorted(proof.by_parts)],
        "damages": [damage.as_dict() for damage in proof.damages],
    }


def _text(proof: Proof) -> str:
    lines = [str(damage) for damage in proof.damages]
    lines.append(f"{proof.blocks} blocks with {proof.lines} lines, {len(proof.damages)} damages")
    if proof.by_parts:
        months = ", ".join(f"{month:%Y-%m}" for month in sorted(proof.by_parts))
        lines.append(f"Proved by their parts alone, because their lines are in the archive (--archive DIR): {months}")
    if proof.head:
        lines.append(f"head {proof.head}")
    return "\n".join(lines)
