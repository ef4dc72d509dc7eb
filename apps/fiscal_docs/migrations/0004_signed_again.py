"""A refused document is signed again under its own number: the fact, and who wanted it.

Changes of the catalogue only: a column with a constant default, and a rule that no row has to be read for. The rows that
are there kept the narrower list of facts, so the wider one is added NOT VALID and has nothing left to validate.
"""

from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models

FACTS = [
    *("NUMBERED", "SIGNED", "SENT", "UNKNOWN", "NOT_DELIVERED", "REJECTED", "SIGNED_AGAIN", "AUTHORISED", "UNDO_ASKED"),
    *("CANCEL_SIGNED", "CANCEL_SENT", "CANCEL_DENIED", "CANCELLED", "VOID_SIGNED", "NUMBER_VOIDED", "ABANDONED"),
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
    ]
