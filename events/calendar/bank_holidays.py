"""The bank holidays of a country or of a part, by year, as the library `holidays` knows them (docs/rules.md §6.1)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import lru_cache
from typing import Final

from caselog.events.errors import did_you_mean

Holidays = Callable[[int], frozenset[date]]
"""The bank holidays of a calendar year, substitute days included."""

DEFAULT_REGION: Final = "GB-ENG"  # also those of Wales


def no_holidays(year: int) -> frozenset[date]:  # noqa: ARG001 -- the same in every year
    """For those who work on every bank holiday."""
    return frozenset()


def bank_holidays(region: str) -> Holidays:
    """Those of a region of ISO 3166 ('GB-ENG', 'DE-BY', 'IE'); 'none' has none. A year is worked out once and kept.

    Beyond the years that the library covers (for GB 1872 to 2100) there are none. Raises ValueError: one line that
    names the region and what was expected.
    """
    code = region.strip().upper()
    if code == "NONE":
        return no_holidays
    import holidays  # noqa: PLC0415 -- 60 ms, for those who count working time only

    country, dash, part = code.partition("-")
    known = holidays.list_supported_countries(include_aliases=False)
    if country not in known or (dash and part not in known[country]):
        near = did_you_mean(code, [f"{country}-{name}" for name in known.get(country, ())])
        raise ValueError(
            f"no bank holidays are known of {region!r}; expected a country or a part of one by ISO 3166, "
            f"such as {DEFAULT_REGION}, or none.{near}"
        )

    @lru_cache(maxsize=256)
    def of_year(year: int) -> frozenset[date]:
        return frozenset(holidays.country_holidays(country, subdiv=part or None, years=year))

    return of_year
