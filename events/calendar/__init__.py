"""Working time: opening hours, bank holidays, and the minutes that count."""
