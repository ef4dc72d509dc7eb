"""Blobs and events are evidence: the database itself refuses to change or delete them."""

from django.db import migrations

CREATE = """
SET LOCAL lock_timeout = '3s';
CREATE FUNCTION fiscal_docs_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON fiscal_docs_documentblob
    FOR EACH ROW EXECUTE FUNCTION fiscal_docs_append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON fiscal_docs_documentevent
    FOR EACH ROW EXECUTE FUNCTION fiscal_docs_append_only();
"""
DROP = """
DROP TRIGGER append_only ON fiscal_docs_documentblob;
DROP TRIGGER append_only ON fiscal_docs_documentevent;
DROP FUNCTION fiscal_docs_append_only();
"""


class Migration(migrations.Migration):
    dependencies = [("fiscal_docs", "0001_initial")]
    operations = [migrations.RunSQL(CREATE, DROP)]
