"""The CHECKs that one function says since 0010."""

from django.db import migrations

RULES = (
    "floor_not_positive",
    "ceiling_not_negative",
    "sums_not_negative",
    "above_floor",
    "below_ceiling",
    "deferred_unguarded",
    "closed_empty",
    "status",
)


class Migration(migrations.Migration):
    dependencies = [("ledger", "0009_one_rule")]
    operations = [migrations.RemoveConstraint(model_name="account", name=f"ledger_account_{rule}") for rule in RULES]
