"""Orders and returns whose run was closed by hand before there was a state for that end now, as those do that come."""

from django.db import migrations

ROWS_MAX = 1000


def end_what_was_closed(apps, schema_editor):
    """In small pieces, and safe to repeat. What a state of another app says is read only."""
    runs = apps.get_model("saga", "Run").objects.filter(status="HANDLED")
    for model in (apps.get_model("orders", "Order"), apps.get_model("orders", "OrderReturn")):
        stuck = list(model.objects.filter(status="STUCK", run_id__isnull=False).values_list("run_id", "pk"))
        for first in range(0, len(stuck), ROWS_MAX):
            few = dict(stuck[first : first + ROWS_MAX])
            for run_id, finished_at in list(runs.filter(pk__in=list(few)).values_list("pk", "finished_at")):
                row = model.objects.filter(pk=few[run_id], status="STUCK")
                row.update(status="HANDLED", finished_at=finished_at)


class Migration(migrations.Migration):

    dependencies = [
        ('orders', '0004_closed_by_hand'),
        ('saga', '0011_incident_care'),
    ]

    operations = [
        migrations.RunPython(end_what_was_closed, migrations.RunPython.noop),
    ]
