"""Where it is kept: tables, migrations, the batch store, and the reports and exports that read it."""
