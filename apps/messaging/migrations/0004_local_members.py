from django.contrib.postgres.fields import ArrayField
from django.db import migrations, models
from django.utils import timezone


class Migration(migrations.Migration):
    """Who owns a partition is now who is a member. Consumers of the former code stop at the column that is gone, and so
    cannot take what a member owns."""

    dependencies = [("messaging", "0003_log_by_day")]
    operations = [
        migrations.CreateModel(
            name="LocalMember",
            fields=[
                ("token", models.UUIDField(primary_key=True, serialize=False)),
                ("group", models.CharField(max_length=100)),
                ("topics", ArrayField(models.CharField(max_length=200), help_text="What it reads.")),
                ("lease_until", models.DateTimeField()),
            ],
        ),
        # With a default, so that the next operation can be undone where there are rows.
        migrations.AlterField("localcursor", "lease_until", models.DateTimeField(default=timezone.now)),
        migrations.RemoveField("localcursor", "lease_until"),
    ]
