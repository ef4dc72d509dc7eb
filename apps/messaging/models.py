"""The tables of the post office."""

from django.db import models

from apps.common.clock import uuid7


class Message(models.Model):
    """Everything that was ever published, in the order of insertion: append only.

    ``seq`` is drawn from a sequence at insert, so a row with a lower seq may commit later: read it by pending row,
    never by "seq greater than the last one seen".
    """

    seq = models.BigAutoField(primary_key=True)
    message_id = models.UUIDField(default=uuid7, unique=True)
    topic = models.CharField(max_length=200)
    key = models.CharField(max_length=200, help_text="Messages of one topic and key keep their order.")
    schema = models.CharField(max_length=100)
    meta = models.JSONField(help_text="global-id, steps, message-id, trace, schema and, on an error, its reason.")
    body = models.JSONField()
    created_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["topic", "-seq"], name="messaging_message_topic")]

    def __str__(self) -> str:
        return f"{self.topic} {self.message_id}"


class Pending(models.Model):
    """A message that the broker has not acknowledged yet. The row is deleted when it has."""

    seq = models.BigIntegerField(primary_key=True)
    bucket = models.SmallIntegerField(help_text="A hash of the key; one relay at a time owns a bucket.")
    topic = models.CharField(max_length=200)
    key = models.CharField(max_length=200)
    attempts = models.SmallIntegerField(default=0)
    due_at = models.DateTimeField()
    parked_at = models.DateTimeField(null=True, help_text="The broker refuses this row itself; an operator decides.")
    error = models.TextField(blank=True, default="")

    class Meta:
        verbose_name = "message to relay"
        verbose_name_plural = "messages to relay"
        indexes = [
            models.Index(fields=["bucket", "seq"], name="messaging_pending_order"),
            models.Index(fields=["topic", "key", "seq"], name="messaging_pending_key"),
        ]


class Bucket(models.Model):
    """Who relays a bucket, and until when."""

    bucket = models.SmallIntegerField(primary_key=True)
    token = models.UUIDField()
    lease_until = models.DateTimeField()


class Inbox(models.Model):
    """A message id takes effect once per consumer group: the row is inserted first, in the effect's transaction."""

    id = models.BigAutoField(primary_key=True)
    group = models.CharField(max_length=100)
    message_id = models.UUIDField()
    handled_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["group", "message_id"], name="messaging_inbox_once")]


class Redelivery(models.Model):
    """A received message whose handler failed, and those of the same key that wait behind it."""

    id = models.BigAutoField(primary_key=True)
    group = models.CharField(max_length=100)
    topic = models.CharField(max_length=200)
    key = models.CharField(max_length=200)
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


class LocalCursor(models.Model):
    """The local transport: how far a group has read a partition, and which consumer owns it until when."""

    id = models.BigAutoField(primary_key=True)
    group = models.CharField(max_length=100)
    topic = models.CharField(max_length=200)
    partition = models.SmallIntegerField()
    next_offset = models.BigIntegerField(default=0)
    token = models.UUIDField()
    lease_until = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["group", "topic", "partition"], name="messaging_local_cursor_once")]
