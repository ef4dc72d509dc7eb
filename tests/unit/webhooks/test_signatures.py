"""Standard Webhooks' signature."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.webhooks import signatures

SECRETS = st.binary(min_size=24, max_size=64)
IDS = st.uuids().map(str)
TIMES = st.integers(min_value=0, max_value=2**40)


def verifies(secret: bytes, header: str, *, message_id: str, timestamp_s: int, body: bytes) -> bool:
    """A receiver of its own make, by the text of the standard."""
    signed = b".".join([message_id.encode(), str(timestamp_s).encode(), body])
    wanted = "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(wanted, given_one) for given_one in header.split(" "))


class TestSign:
    def test_gives_the_standards_own_example(self) -> None:
        made = signatures.sign(
            [base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
            message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
            timestamp_s=1614265330,
            body=b'{"test": 2432232314}',
        )
        assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    @settings(deadline=None)
    @given(st.lists(SECRETS, min_size=1, max_size=2), IDS, TIMES, st.binary(max_size=300))
    def test_is_verified_with_each_of_its_secrets(
        self, keys: list[bytes], message_id: str, timestamp_s: int, body: bytes
    ) -> None:
        made = signatures.sign(keys, message_id=message_id, timestamp_s=timestamp_s, body=body)
        assert len(made.split(" ")) == len(keys)
        for key in keys:
            assert verifies(key, made, message_id=message_id, timestamp_s=timestamp_s, body=body)

    @settings(deadline=None)
    @given(SECRETS, SECRETS, IDS, TIMES, st.binary(min_size=1, max_size=300), st.data())
    def test_is_refused_when_anything_was_changed(
        self, key: bytes, other: bytes, message_id: str, timestamp_s: int, body: bytes, data: st.DataObject
    ) -> None:
        made = signatures.sign([key], message_id=message_id, timestamp_s=timestamp_s, body=body)
        at = data.draw(st.integers(0, len(body) - 1))
        bent = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        assert not verifies(key, made, message_id=message_id, timestamp_s=timestamp_s, body=bent)
        assert not verifies(key, made, message_id=message_id, timestamp_s=timestamp_s + 1, body=body)
        assert not verifies(key, made, message_id=message_id + "0", timestamp_s=timestamp_s, body=body)
        # HMAC fills a key up with zeros: one that differs in them alone is the same key.
        assert key.rstrip(b"\0") == other.rstrip(b"\0") or not verifies(
            other, made, message_id=message_id, timestamp_s=timestamp_s, body=body
        )


class TestSecret:
    def test_is_shown_in_the_standards_form(self) -> None:
        secret = signatures.new_secret()
        shown = signatures.shown(secret)
        assert shown.startswith("whsec_")
        assert base64.b64decode(shown.removeprefix("whsec_")) == secret
        assert 24 <= len(secret) <= 64

    def test_is_sealed_for_its_endpoint_alone(self) -> None:
        box = signatures.seal(b"s" * 32, endpoint_id="one")
        assert b"sss" not in box
        assert signatures.unseal(box, endpoint_id="one") == b"s" * 32
        with pytest.raises(signatures.SecretUnreadable):
            signatures.unseal(box, endpoint_id="two")
