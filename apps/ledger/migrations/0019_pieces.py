"""How far a full check is, so that it may go on after its process was killed. See Note [Pieces] in apps/ledger/passes.py."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("ledger", "0018_post_line")]

    operations = [
        migrations.AddField(
            model_name="check",
            name="continued_at",
            field=models.DateTimeField(db_column="continuedat", help_text="The moment that its last piece saw.", null=True),
        ),
        migrations.AddField(
            model_name="check",
            name="expected",
            field=models.BigIntegerField(
                db_default=0, default=0, help_text="So many there were when it began, more or less."
            ),
        ),
        migrations.AddField(
            model_name="check",
            name="looked",
            field=models.BigIntegerField(
                db_default=0, default=0, help_text="Lines, holds and tracekeys that it has looked at."
            ),
        ),
        migrations.AddField(
            model_name="check",
            name="progress",
            field=models.JSONField(blank=True, help_text="How far a full check is that has not ended.", null=True),
        ),
        migrations.AddField(
            model_name="check",
            name="tries",
            field=models.IntegerField(
                db_default=0, default=0, help_text="Of its next piece: many when it is killed each time."
            ),
        ),
        migrations.AddField(
            model_name="check",
            name="unproven",
            field=models.BigIntegerField(
                db_default=0, default=0, help_text="Accounts that no check had proved when it ended."
            ),
        ),
    ]
