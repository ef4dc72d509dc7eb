"""Reversals by hand that wait for a second person (apps/ledger/by_hand.py)."""

import apps.common.clock
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("ledger", "0014_queries"),
    ]

    operations = [
        migrations.CreateModel(
            name="ReversalRequest",
            fields=[
                ("id", models.UUIDField(default=apps.common.clock.uuid7, primary_key=True, serialize=False)),
                ("tracekey", models.UUIDField(help_text="Of the entry that is to be taken back.")),
                ("reversal_tracekey", models.UUIDField(db_column="reversaltracekey")),
                ("amount", models.DecimalField(decimal_places=2, max_digits=17)),
                ("currency", models.CharField(db_collation="C", max_length=3)),
                ("reason", models.TextField()),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("WAITING", "Waiting"),
                            ("POSTED", "Posted"),
                            ("WITHDRAWN", "Withdrawn"),
                            ("EXPIRED", "Expired"),
                        ],
                        default="WAITING",
                        max_length=9,
                    ),
                ),
                ("asked_by", models.TextField(db_column="askedby")),
                ("asked_at", models.DateTimeField(db_column="askedat")),
                ("decided_by", models.TextField(blank=True, db_column="decidedby", default="")),
                ("decided_at", models.DateTimeField(db_column="decidedat", null=True)),
                ("answer", models.TextField(blank=True, default="", help_text="Why it was withdrawn.")),
            ],
            options={
                "db_table": "ledger_reversal_request",
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("state", "WAITING")), fields=("tracekey",), name="ledger_reversal_request_one"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("decided_at__isnull", True), ("state", "WAITING")),
                            models.Q(("decided_at__isnull", False), ("state__in", ["POSTED", "WITHDRAWN", "EXPIRED"])),
                            _connector="OR",
                        ),
                        name="ledger_reversal_request_state",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("decided_by", models.F("asked_by")), ("state", "POSTED"), _negated=True),
                        name="ledger_reversal_request_second",
                    ),
                ],
            },
        ),
    ]
