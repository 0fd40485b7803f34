"""Where PostgreSQL, the broker and Redis are, embedded or given."""
