from django.db import migrations

# A queue's table is small and changes all the time: by default autovacuum waits for a fifth of the *rows*, and a queue
# that was long once keeps the dead ones in every index scan.
_TUNE = """
ALTER TABLE messaging_pending SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE messaging_redelivery SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE messaging_bucket SET (fillfactor = 50);
ALTER TABLE messaging_localcursor SET (fillfactor = 50);
"""


class Migration(migrations.Migration):
    dependencies = [("messaging", "0001_initial")]
    operations = [migrations.RunSQL(_TUNE, migrations.RunSQL.noop)]
