"""The lists of a merchant, each with an index."""

from django.db import migrations, models

from apps.common.online import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("fiscal_docs", "0004_signed_again")]

    operations = [
        AddIndexOnline("document", models.Index(fields=["account_id", "-id"], name="fiscal_document_list")),
        AddIndexOnline(
            "document", models.Index(fields=["state", "account_id", "-id"], name="fiscal_document_list_state")
        ),
    ]
