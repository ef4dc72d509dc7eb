"""Room for what the authority may answer: codes of four digits (the tax reform's) and protocols of seventeen.

A varchar that grows is a change of the catalogue only: no row is written again.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fiscal_docs", "0002_append_only")]

    operations = [
        migrations.AlterField(
            model_name="document",
            name="protocol",
            field=models.CharField(blank=True, max_length=17),
        ),
        migrations.AlterField(
            model_name="document",
            name="refusal_code",
            field=models.CharField(blank=True, max_length=4),
        ),
        migrations.AlterField(
            model_name="documentevent",
            name="protocol",
            field=models.CharField(blank=True, max_length=17),
        ),
        migrations.AlterField(
            model_name="documentevent",
            name="status",
            field=models.CharField(blank=True, max_length=4, verbose_name="cStat"),
        ),
    ]
