

import apps.common.clock
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('saga', '0003_by_month'),
    ]

    operations = [
        migrations.CreateModel(
            name='ArchivedBatch',
            fields=[
                ('id', models.UUIDField(default=apps.common.clock.uuid7, primary_key=True, serialize=False)),
                ('use_case', models.CharField(max_length=100)),
                ('path', models.CharField(help_text='Of the files, within the folder of each table.', max_length=200, unique=True)),
                ('runs', models.PositiveIntegerField()),
                ('first_run_id', models.UUIDField()),
                ('last_run_id', models.UUIDField()),
                ('archived_at', models.DateTimeField()),
            ],
            options={
                'verbose_name_plural': 'archived batches',
                'indexes': [models.Index(fields=['first_run_id', 'last_run_id'], name='saga_archived_runs')],
            },
        ),
    ]
