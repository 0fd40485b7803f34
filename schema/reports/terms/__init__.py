"""The terms in which a report is declared: what its columns are, which logs it counts, where its rows come from."""
