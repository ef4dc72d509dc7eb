"""The journeys of an order. Importing this registers them."""
