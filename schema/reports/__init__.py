"""The reports (RULES.md §7): what each shows, what feeds it, and how it is read. One file a report: `declarations/`."""
