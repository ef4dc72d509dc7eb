"""A process that sends one delivery of an endpoint: python -m tests.failures.webhook_senders <endpoint> <moment>."""

import sys
from datetime import datetime
from uuid import UUID


def main(words: list[str]) -> None:
    """Send, and say whether there was something to send."""
    import django

    django.setup()
    from apps.webhooks import deliveries

    sys.stdout.write(str(deliveries.send_next(UUID(words[0]), now=datetime.fromisoformat(words[1]))))
