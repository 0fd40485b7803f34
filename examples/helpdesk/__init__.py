"""The help desk of a software company: another organisation's events, and a replay of a log of its tickets."""
