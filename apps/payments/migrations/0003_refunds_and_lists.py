from django.contrib.postgres.operations import RemoveIndexConcurrently
from django.db import migrations, models

from apps.common.online import AddIndexOnline


class Migration(migrations.Migration):
    """Why a merchant refunds a payment; and the lists of a merchant, each with an index that begins as one before did."""

    atomic = False

    dependencies = [("payments", "0002_card_testing")]

    operations = [
        AddIndexOnline(
            "payment", models.Index(fields=["account_id", "-created_at", "-id"], name="payments_payment_list")
        ),
        AddIndexOnline(
            "payment", models.Index(fields=["state", "account_id", "-created_at", "-id"], name="payments_payment_list_state")
        ),
        AddIndexOnline(
            "payment", models.Index(fields=["order_ref", "account_id", "-created_at", "-id"], name="payments_payment_list_ref")
        ),
        RemoveIndexConcurrently("payment", "payments_payment_account"),
        RemoveIndexConcurrently("payment", "payments_payment_ref"),
        # Last: it alone cannot be repeated.
        migrations.AddField(
            "paymentoperation",
            "reason",
            models.CharField(blank=True, db_default="", help_text="Why a merchant gives it back.", max_length=200),
        ),
    ]
