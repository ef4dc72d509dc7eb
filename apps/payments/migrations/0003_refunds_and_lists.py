from django.db import migrations, models


class Migration(migrations.Migration):
    """Why a merchant refunds a payment; and the lists of a merchant, each with an index that begins as one before did."""

    dependencies = [("payments", "0002_card_testing")]

    operations = [
        migrations.AddField(
            "paymentoperation",
            "reason",
            models.CharField(blank=True, db_default="", help_text="Why a merchant gives it back.", max_length=200),
        ),
        migrations.AddIndex(
            "payment", models.Index(fields=["account_id", "-created_at", "-id"], name="payments_payment_list")
        ),
        migrations.AddIndex(
            "payment", models.Index(fields=["state", "account_id", "-created_at", "-id"], name="payments_payment_list_state")
        ),
        migrations.AddIndex(
            "payment", models.Index(fields=["order_ref", "account_id", "-created_at", "-id"], name="payments_payment_list_ref")
        ),
        migrations.RemoveIndex("payment", "payments_payment_account"),
        migrations.RemoveIndex("payment", "payments_payment_ref"),
    ]
