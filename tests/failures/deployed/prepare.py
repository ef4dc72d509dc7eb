"""Before a deployment's first process: tables, topics, demo data, cards. Prints what the tests need, as JSON."""

import json
import os
from dataclasses import asdict

import django


def main() -> None:
    """Run once, with the deployment's environment."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.failures.deployed.settings")
    django.setup()
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection
    from django.utils import timezone

    from apps.messaging import topics
    from config import demo, worker
    from tests.failures.deployed.numbers import TABLE

    call_command("migrate", verbosity=0, interactive=False)
    with connection.cursor() as cursor:
        cursor.execute(TABLE)
    if not settings.CELERY_BROKER_URL:
        worker.install_pgmq(settings.DATABASES["default"])
    topics.apply()
    found = asdict(demo.load(now=timezone.now()))
    print(json.dumps({**found, **_cards()}))  # noqa: T201


def _cards() -> dict[str, str]:
    """Tokens of the sandbox cards that misbehave and are paid all the same; see docs/sandbox-cards.md."""
    from django.utils import timezone

    from apps.common.transactions import transaction
    from apps.payments import public as payments
    from config import demo

    now = timezone.now()
    numbers = {"answer_lost": "4000000000001000", "answered_twice": "4000000000002008"}
    return {
        name: transaction(payments.save_card)(
            owner_id=str(demo.CUSTOMER_ID),
            card=payments.CardInput(number=number, exp_month=12, exp_year=now.year + 3, cvv="123"),
            now=now,
        ).token
        for name, number in numbers.items()
    }


if __name__ == "__main__":
    main()
