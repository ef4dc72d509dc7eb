from django.db import migrations, models

import apps.common.clock

# The log becomes a table partitioned by day over its id, with the columns of Debezium's outbox event router; decision
# 0006 has the measurements. What is there already goes to the default partition.
_FORWARD = """
CREATE SEQUENCE messaging_seq AS bigint;
SELECT setval('messaging_seq', greatest((SELECT max(seq) FROM messaging_message), 0) + 1, false);
ALTER TABLE messaging_message RENAME TO messaging_message_before;
ALTER INDEX messaging_message_topic RENAME TO messaging_message_topic_before;
CREATE TABLE messaging_message (
    id uuid NOT NULL,
    seq bigint NOT NULL DEFAULT nextval('messaging_seq'),
    aggregatetype text NOT NULL,
    aggregateid text NOT NULL,
    type text NOT NULL,
    payload text NOT NULL,
    global_id text NOT NULL DEFAULT '',
    trace text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    CONSTRAINT messaging_message_once PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX messaging_message_topic ON messaging_message (aggregatetype, id);
CREATE INDEX messaging_message_global ON messaging_message (global_id, id) WHERE global_id <> '';
-- A message whose day has no partition is still taken: a forgotten maintenance task must not stop the business.
CREATE TABLE messaging_message_default PARTITION OF messaging_message DEFAULT;
INSERT INTO messaging_message (id, seq, aggregatetype, aggregateid, type, payload, global_id, trace, created_at)
SELECT message_id, seq, topic, key, schema, json_build_object('meta', meta, 'body', body)::text,
       coalesce(meta ->> 'global-id', ''), coalesce(meta ->> 'trace', ''), created_at FROM messaging_message_before;
ALTER TABLE messaging_pending ADD COLUMN message_id uuid;
UPDATE messaging_pending p SET message_id = m.message_id FROM messaging_message_before m WHERE m.seq = p.seq;
ALTER TABLE messaging_pending ALTER COLUMN message_id SET NOT NULL;
ALTER TABLE messaging_pending ALTER COLUMN topic TYPE text, ALTER COLUMN key TYPE text;
DROP INDEX messaging_pending_order;
DROP INDEX messaging_pending_key;
CREATE INDEX messaging_pending_failed ON messaging_pending (topic, key, seq) WHERE attempts > 0;
DROP TABLE messaging_message_before;
CREATE TABLE messaging_relayrequest (token uuid PRIMARY KEY, asked_until timestamptz NOT NULL);
"""

_STATE = [
    migrations.DeleteModel("Message"),
    migrations.CreateModel(
        name="Message",
        fields=[
            (
                "message_id",
                models.UUIDField(db_column="id", default=apps.common.clock.uuid7, primary_key=True, serialize=False),
            ),
            ("seq", models.BigIntegerField(db_default=models.Func(models.Value("messaging_seq"), function="nextval"))),
            ("topic", models.TextField(db_column="aggregatetype")),
            ("key", models.TextField(db_column="aggregateid", help_text="Messages of one topic and key keep their order.")),
            ("schema", models.TextField(db_column="type")),
            ("payload", models.TextField(help_text="The envelope as it goes on the wire: meta and body.")),
            ("global_id", models.TextField(db_default="")),
            ("trace", models.TextField(db_default="")),
            ("created_at", models.DateTimeField()),
        ],
        options={
            "indexes": [
                models.Index(fields=["topic", "message_id"], name="messaging_message_topic"),
                models.Index(
                    condition=models.Q(("global_id", ""), _negated=True),
                    fields=["global_id", "message_id"],
                    name="messaging_message_global",
                ),
            ]
        },
    ),
    migrations.AddField("pending", "message_id", models.UUIDField(), preserve_default=False),
    migrations.AlterField("pending", "topic", models.TextField()),
    migrations.AlterField("pending", "key", models.TextField()),
    migrations.RemoveIndex("pending", "messaging_pending_order"),
    migrations.RemoveIndex("pending", "messaging_pending_key"),
    migrations.AddIndex(
        "pending",
        models.Index(
            condition=models.Q(("attempts__gt", 0)), fields=["topic", "key", "seq"], name="messaging_pending_failed"
        ),
    ),
    migrations.CreateModel(
        name="RelayRequest",
        fields=[
            ("token", models.UUIDField(primary_key=True, serialize=False)),
            ("asked_until", models.DateTimeField()),
        ],
    ),
]


class Migration(migrations.Migration):
    dependencies = [("messaging", "0002_queue_storage")]
    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(_FORWARD, elidable=False)],
            state_operations=_STATE,
        ),
        migrations.AddField("redelivery", "partition", models.IntegerField(null=True, help_text="Where it was read.")),
        migrations.AddField("redelivery", "offset", models.BigIntegerField(null=True)),
    ]
