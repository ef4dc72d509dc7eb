"""Book a parcel. ``pipes run parcels:Book``"""

from typing import Any

from lastro_pipes import Message, Refuse, Step

KG_MAX = 30  # the carrier's limit
TABLE = "CREATE TABLE IF NOT EXISTS booked (step_key text PRIMARY KEY, address text NOT NULL)"


class Book(Step):
    """Undoing it cancels the booking."""

    service = "shop.parcels.book"

    def handle(self, message: Message) -> dict[str, Any]:
        """Refuses what is too heavy: then the card is refunded and the article put back."""
        if message.body.get("kg", 0) > KG_MAX:
            raise Refuse("TOO_HEAVY", f"The carrier takes no more than {KG_MAX} kg.")
        message.connection.execute(TABLE)
        message.connection.execute("INSERT INTO booked VALUES (?, ?)", (message.step_key, message.body["address"]))
        return {**message.body, "booked": message.step_key}

    def compensate(self, message: Message) -> None:
        """Nothing is there when it was never booked."""
        message.connection.execute(TABLE)
        message.connection.execute("DELETE FROM booked WHERE step_key = ?", (message.step_key,))
