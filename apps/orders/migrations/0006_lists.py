from django.contrib.postgres.operations import RemoveIndexConcurrently
from django.db import migrations, models

from apps.common.online import AddIndexOnline


class Migration(migrations.Migration):
    """The lists of a merchant, each with an index. Two of them begin as the indexes did that they replace."""

    atomic = False

    dependencies = [("orders", "0005_end_what_was_closed")]

    operations = [
        AddIndexOnline(
            "order", models.Index(fields=["account_id", "-created_at", "-id"], name="orders_order_list")
        ),
        AddIndexOnline(
            "order", models.Index(fields=["status", "account_id", "-created_at", "-id"], name="orders_order_list_status")
        ),
        AddIndexOnline(
            "order",
            models.Index(fields=["customer_id", "account_id", "-created_at", "-id"], name="orders_order_list_customer"),
        ),
        RemoveIndexConcurrently("order", "orders_order_customer"),
        RemoveIndexConcurrently("order", "orders_order_account"),
    ]
