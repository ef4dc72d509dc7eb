"""manage.py verify_contracts: do the message classes, their Avro files and what was released agree?"""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.messaging.contracts import releases
from apps.messaging.contracts.base import InvalidMessage
from apps.messaging.transports.base import TransportDown
from apps.messaging.wire import register_schemas


class Command(BaseCommand):
    help = (
        "Compare the message classes with their Avro files (apps/messaging/contracts/schemas), the files with what was "
        "released, and every version with the others. Needs no database."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--write", action="store_true", help="first write the files of versions that are not released")
        parser.add_argument("--release", action="store_true", help="then mark all versions as released, for good")
        parser.add_argument(
            "--register", action="store_true", help="then register the schemas of event topics at SCHEMA_REGISTRY_URL"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        files = releases.Files()
        if options["write"]:
            self._tell("written", files.write())
        problems = [*files.problems(), *releases.topic_problems()]
        if problems:
            raise CommandError("\n".join(problems))
        if options["release"]:
            self._tell("released", files.release())
        if options["register"]:
            self._register()
        self._tell("not released, and may still change", files.unreleased())
        self.stdout.write("The contracts agree with their files, and every version with the others.")

    def _tell(self, what: str, schemas: list[str]) -> None:
        for schema in schemas:
            self.stdout.write(f"{what}: {schema}")

    def _register(self) -> None:
        try:
            for subject, schema, schema_id in register_schemas(releases.declared_classes()):
                self.stdout.write(f"registered: {schema} as {schema_id} of {subject}")
        except (InvalidMessage, TransportDown) as error:
            raise CommandError(str(error)) from None
