"""Take an article out of stock. ``pipes run stock:Reserve``"""

from typing import Any

from lastro_pipes import Message, Refuse, Step

TABLE = "CREATE TABLE IF NOT EXISTS reserved (step_key text PRIMARY KEY, sku text NOT NULL)"


class Reserve(Step):
    """Undoing it puts the article back."""

    service = "shop.stock.reserve"

    def handle(self, message: Message) -> dict[str, Any]:
        """Refuses what is sold out."""
        sku = message.body["sku"]
        if sku == "sold-out":
            raise Refuse("SOLD_OUT", "Nothing is left of this article.")
        message.connection.execute(TABLE)
        message.connection.execute("INSERT INTO reserved VALUES (?, ?)", (message.step_key, sku))
        return {**message.body, "reserved": message.step_key}

    def compensate(self, message: Message) -> None:
        """Nothing is there when it was never reserved."""
        message.connection.execute(TABLE)
        message.connection.execute("DELETE FROM reserved WHERE step_key = ?", (message.step_key,))
