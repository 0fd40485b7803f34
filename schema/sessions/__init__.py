"""Which PostgreSQL answers, how it is reached, and when a session is left."""
