"""Django's PostgreSQL backend with fewer bytes and round trips for what every commit does (docs/decisions/0019)."""
