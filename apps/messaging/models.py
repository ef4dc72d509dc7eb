"""The tables of the post office."""

import json
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils.functional import cached_property

from apps.common.clock import uuid7


class Message(models.Model):
    """Everything that was ever published: append only, partitioned by day over the id, whose first bits are a time.

    The columns are those that Debezium's outbox event router reads (docs/outbox.md). ``seq`` is drawn from a sequence at
    insert, so a row with a lower seq may commit later: what is to be sent is found by its pending row, never by "seq
    greater than the last one seen".
    """

    message_id = models.UUIDField(primary_key=True, db_column="id", default=uuid7)
    seq = models.BigIntegerField(db_default=models.Func(models.Value("messaging_seq"), function="nextval"))
    topic = models.TextField(db_column="aggregatetype")
    key = models.TextField(db_column="aggregateid", help_text="Messages of one topic and key keep their order.")
    schema = models.TextField(db_column="type")
    payload = models.TextField(help_text="The envelope as it goes on the wire: meta and body.")
    global_id = models.TextField(db_default="")
    trace = models.TextField(db_default="")
    created_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["topic", "message_id"], name="messaging_message_topic"),
            models.Index(
                fields=["global_id", "message_id"],
                name="messaging_message_global",
                condition=~models.Q(global_id=""),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.topic} {self.message_id}"

    @cached_property
    def envelope(self) -> dict[str, Any]:
        """The payload, read."""
        found: dict[str, Any] = json.loads(self.payload)
        return found

    @property
    def meta(self) -> dict[str, Any]:
        """global-id, steps, message-id, trace, schema and, on a dead letter, its error."""
        found: dict[str, Any] = self.envelope["meta"]
        return found

    @property
    def body(self) -> Any:
        """The message itself."""
        return self.envelope["body"]


class Pending(models.Model):
    """A message that the broker has not acknowledged yet. The row is deleted when it has."""

    seq = models.BigIntegerField(primary_key=True)
    message_id = models.UUIDField()
    bucket = models.SmallIntegerField(help_text="A hash of the key; one relay at a time owns a bucket.")
    topic = models.TextField()
    key = models.TextField()
    attempts = models.SmallIntegerField(default=0)
    due_at = models.DateTimeField()
    parked_at = models.DateTimeField(null=True, help_text="The broker refuses this row itself; an operator decides.")
    error = models.TextField(blank=True, default="")

    class Meta:
        verbose_name = "message to relay"
        verbose_name_plural = "messages to relay"
        indexes = [
            # Those that failed, and so block their keys: a handful, where a full index would cost every message.
            models.Index(
                fields=["topic", "key", "seq"], name="messaging_pending_failed", condition=models.Q(attempts__gt=0)
            ),
        ]


class Bucket(models.Model):
    """Who relays a bucket, and until when."""

    bucket = models.SmallIntegerField(primary_key=True)
    token = models.UUIDField()
    lease_until = models.DateTimeField()


class RelayRequest(models.Model):
    """A relay that found work and no free bucket: those who own several give some up."""

    token = models.UUIDField(primary_key=True)
    asked_until = models.DateTimeField()


class Inbox(models.Model):
    """A message id takes effect once per consumer group: the row is inserted first, in the effect's transaction."""

    id = models.BigAutoField(primary_key=True)
    group = models.CharField(max_length=100)
    message_id = models.UUIDField()
    handled_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["group", "message_id"], name="messaging_inbox_once")]


class DeadLetterReplay(models.Model):
    """A dead letter was sent again: by whom, when and why. The row and the message are one commit."""

    message_id = models.UUIDField(primary_key=True, default=uuid7, help_text="The message that was sent.")
    dead_letter_id = models.UUIDField()
    number = models.SmallIntegerField(help_text="How often the dead letter was sent by then. Two cannot send it at once.")
    group = models.CharField(max_length=100)
    topic = models.CharField(max_length=200)
    corrected = models.JSONField(default=list, help_text="Where it differs from the dead letter: body.amount.")
    reason = models.TextField()
    replayed_by = models.CharField(max_length=200)
    replayed_at = models.DateTimeField()

    class Meta:
        verbose_name = "replay of a dead letter"
        verbose_name_plural = "replays of dead letters"
        constraints = [
            # Its index answers "was this one replayed?" too.
            models.UniqueConstraint(fields=["dead_letter_id", "number"], name="messaging_replay_once")
        ]

    def __str__(self) -> str:
        return f"replay {self.number} of {self.dead_letter_id}"


class Redelivery(models.Model):
    """A received message whose handler failed, and those of the same key that wait behind it."""

    id = models.BigAutoField(primary_key=True)
    group = models.CharField(max_length=100)
    topic = models.CharField(max_length=200)
    key = models.CharField(max_length=200)
    partition = models.IntegerField(null=True, help_text="Where it was read.")
    offset = models.BigIntegerField(null=True)
    message_id = models.UUIDField()
    envelope = models.JSONField()
    attempts = models.SmallIntegerField(default=0)
    due_at = models.DateTimeField()
    error = models.TextField(blank=True, default="")
    created_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "redeliveries"
        constraints = [models.UniqueConstraint(fields=["group", "message_id"], name="messaging_redelivery_once")]
        indexes = [
            models.Index(fields=["group", "topic", "key", "id"], name="messaging_redelivery_key"),
            models.Index(fields=["group", "due_at"], name="messaging_redelivery_due"),
        ]


class LocalPartition(models.Model):
    """The local transport: the next offset of a topic's partition. Its row lock is what keeps offsets gapless."""

    id = models.BigAutoField(primary_key=True)
    topic = models.CharField(max_length=200)
    partition = models.SmallIntegerField()
    next_offset = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["topic", "partition"], name="messaging_local_partition_once")]


class LocalRecord(models.Model):
    """The local transport: one record of the log."""

    id = models.BigAutoField(primary_key=True)
    topic = models.CharField(max_length=200)
    partition = models.SmallIntegerField()
    offset = models.BigIntegerField()
    key = models.CharField(max_length=200)
    value = models.BinaryField()
    appended_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["topic", "partition", "offset"], name="messaging_local_record_once")]


class LocalMember(models.Model):
    """The local transport: a member of a group, for as long as it renews its lease. Others delete it when it does not."""

    token = models.UUIDField(primary_key=True)
    group = models.CharField(max_length=100)
    topics = ArrayField(models.CharField(max_length=200), help_text="What it reads.")
    lease_until = models.DateTimeField()


class LocalCursor(models.Model):
    """The local transport: how far a group has read a partition, and the member that owns it; nobody, if it is gone."""

    id = models.BigAutoField(primary_key=True)
    group = models.CharField(max_length=100)
    topic = models.CharField(max_length=200)
    partition = models.SmallIntegerField()
    next_offset = models.BigIntegerField(default=0)
    token = models.UUIDField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["group", "topic", "partition"], name="messaging_local_cursor_once")]
