"""Charge a card. ``pipes run cards:Charge``"""

from typing import Any

from lastro_pipes import Message, Step

TABLE = "CREATE TABLE IF NOT EXISTS charged (step_key text PRIMARY KEY, amount text NOT NULL, refunded integer NOT NULL)"


class Charge(Step):
    """Undoing it gives the money back."""

    service = "shop.cards.charge"

    def handle(self, message: Message) -> dict[str, Any]:
        """The amount travels as text: a JSON number may lose a cent."""
        message.connection.execute(TABLE)
        values = (message.step_key, message.body["amount"])
        message.connection.execute("INSERT INTO charged VALUES (?, ?, 0)", values)
        return {**message.body, "charged": message.step_key}

    def compensate(self, message: Message) -> None:
        """``done`` is what handle was given and gave back; None when it never took effect."""
        message.connection.execute(TABLE)
        if message.done is not None:
            message.connection.execute("UPDATE charged SET refunded = 1 WHERE step_key = ?", (message.step_key,))
