"""How caselog speaks to PostgreSQL: its tables, and statements for whole batches."""
