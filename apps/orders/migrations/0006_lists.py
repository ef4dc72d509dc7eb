from django.db import migrations, models


class Migration(migrations.Migration):
    """The lists of a merchant, each with an index. Two of them begin as the indexes did that they replace."""

    dependencies = [("orders", "0005_end_what_was_closed")]

    operations = [
        migrations.AddIndex(
            "order", models.Index(fields=["account_id", "-created_at", "-id"], name="orders_order_list")
        ),
        migrations.AddIndex(
            "order", models.Index(fields=["status", "account_id", "-created_at", "-id"], name="orders_order_list_status")
        ),
        migrations.AddIndex(
            "order",
            models.Index(fields=["customer_id", "account_id", "-created_at", "-id"], name="orders_order_list_customer"),
        ),
        migrations.RemoveIndex("order", "orders_order_customer"),
        migrations.RemoveIndex("order", "orders_order_account"),
    ]
