"""Ids of messages: new ones sort by time; derived ones are the same whenever the same message is read again."""

import hashlib
import os
import time
import uuid

DERIVED = uuid.UUID("6b1f4b5e-6c0e-5a0b-9d6a-70697065730a")  # the name space of ids that follow from a message


def uuid7() -> uuid.UUID:
    """A time-ordered UUID (RFC 9562, version 7)."""
    value = ((time.time_ns() // 1_000_000) << 80) | int.from_bytes(os.urandom(10), "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    return uuid.UUID(int=(value & ~(0x3 << 62)) | (0x2 << 62))


def derived(*words: object) -> uuid.UUID:
    """The id that follows from these words: a crash and a second try say the same thing under the same id."""
    return uuid.uuid5(DERIVED, "\0".join(map(str, words)))


def of_bytes(value: bytes) -> uuid.UUID:
    """The id of a message that carries none: a copy, byte for byte, has the same."""
    return derived("sha256", hashlib.sha256(value).hexdigest())
