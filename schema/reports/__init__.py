"""The reports (docs/rules.md §7): what each shows, what feeds it, and how it is read. A file each: `declarations/`."""
