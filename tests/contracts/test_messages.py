"""What is on the bus. Messages written by an older release, and by a newer one, must be readable."""

import json

from tests.contracts import snapshots


class TestMessages:
    def test_are_the_snapshot(self) -> None:
        snapshot = json.loads(snapshots.MESSAGES.read_text())
        assert snapshots.messages() == snapshot, (
            "a new version is a new class; else: python -m tests.contracts.snapshots --write"
        )

    def test_name_their_topic_and_their_fields(self) -> None:
        for schema, message in snapshots.messages().items():
            assert message["fields"], schema
            assert message["topic"].count(".") == 3, schema

    def test_carry_values_that_json_can_carry(self) -> None:
        plain = {"str", "int", "bool", "Decimal", "UUID", "date", "datetime"}
        for schema, message in snapshots.messages().items():
            for field, declared in message["fields"].items():
                kind = declared.split(" = ")[0].removesuffix(" | None")
                kind = kind.removeprefix("tuple[").removesuffix(", ...]").removeprefix("list[").removesuffix("]")
                assert kind in plain, f"{schema}.{field} is {declared}"
