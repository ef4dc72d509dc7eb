"""manage.py consumer_lag: how far the groups are behind."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management import BaseCommand, CommandError

from apps.messaging.inbox import groups
from apps.messaging.lag import consumer_lag
from apps.messaging.transports.base import TransportDown, TransportMisconfigured


class Command(BaseCommand):
    """Edge: print the lag of every group, or of the groups that are named."""

    help = "Records that each consumer group has not handled yet, by topic and partition."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--groups", nargs="*", default=[], help="only these")
        parser.add_argument("--json", action="store_true", help="one JSON object: group -> topic -> partition -> lag")

    def handle(self, *args: Any, **options: Any) -> None:
        if unknown := sorted(set(options["groups"]) - set(groups())):
            raise CommandError(f"Unknown: {', '.join(unknown)}; there are {', '.join(groups())}.")
        try:
            lags = {group: consumer_lag(group) for group in options["groups"] or groups()}
        except (TransportDown, TransportMisconfigured) as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps({group: _nested(lag) for group, lag in lags.items()}))
            return
        for group, lag in lags.items():
            for topic in sorted({topic for topic, _ in lag}) or ["-"]:
                behind = sum(count for (name, _), count in lag.items() if name == topic)
                self.stdout.write(f"{behind:8} {group}  {topic}")


def _nested(lag: dict[tuple[str, int], int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (topic, partition), behind in sorted(lag.items()):
        found.setdefault(topic, {})[str(partition)] = behind
    return found
