"""A refused document is signed again under its own number: the fact, and who wanted it. And contingency: the times in which
receipts are handed out before the authority has them, with a state and a fact of their own.

Changes of the catalogue only: a column with a constant default, a table, and rules that no row has to be read for. The rows
that are there kept the narrower lists, so the wider ones are added NOT VALID and have nothing left to validate.
"""

from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models

import apps.common.clock

FACTS = [
    *("NUMBERED", "SIGNED", "SENT", "UNKNOWN", "NOT_DELIVERED", "REJECTED", "SIGNED_AGAIN", "OFFLINE", "AUTHORISED"),
    *("UNDO_ASKED", "CANCEL_SIGNED", "CANCEL_SENT", "CANCEL_DENIED", "CANCELLED", "VOID_SIGNED", "NUMBER_VOIDED"),
    "ABANDONED",
]
STATES = [
    *("DRAFT", "NUMBERED", "SIGNED", "OFFLINE", "SENT", "UNKNOWN", "REJECTED", "AUTHORISED", "CANCELLED"),
    *("NUMBER_VOIDED", "ABANDONED"),
]


class Migration(migrations.Migration):
    dependencies = [("fiscal_docs", "0003_widths_of_answers")]

    operations = [
        migrations.RemoveConstraint(model_name="documentevent", name="fiscal_event_fact"),
        AddConstraintNotValid(
            model_name="documentevent",
            constraint=models.CheckConstraint(condition=models.Q(fact__in=FACTS), name="fiscal_event_fact"),
        ),
        migrations.AddField(
            model_name="documentevent",
            name="actor",
            field=models.CharField(blank=True, db_default="", default="", help_text="Who wanted it.", max_length=200),
        ),
        migrations.AlterField(
            model_name="documentevent",
            name="fact",
            field=models.CharField(choices=[(fact, fact) for fact in FACTS], max_length=16),
        ),
        migrations.RemoveConstraint(model_name="document", name="fiscal_document_state"),
        AddConstraintNotValid(
            model_name="document",
            constraint=models.CheckConstraint(condition=models.Q(state__in=STATES), name="fiscal_document_state"),
        ),
        migrations.AlterField(
            model_name="document",
            name="state",
            field=models.CharField(choices=[(state, state) for state in STATES], max_length=16),
        ),
        migrations.CreateModel(
            name="Contingency",
            fields=[
                (
                    "id",
                    models.UUIDField(default=apps.common.clock.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                ("kind", models.CharField(choices=[("55", "NF-e"), ("65", "NFC-e")], max_length=2)),
                ("began_at", models.DateTimeField()),
                ("began_by", models.CharField(max_length=200)),
                ("reason", models.CharField(help_text="Stands on every document of that time.", max_length=255)),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
                ("ended_by", models.CharField(blank=True, max_length=200)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=["kind"], condition=models.Q(ended_at__isnull=True), name="fiscal_contingency_one"
                    )
                ]
            },
        ),
    ]
