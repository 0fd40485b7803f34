"""The event log of an organisation that handles cases: `caselog.events`, `caselog.schema` and `caselog.workers`."""
