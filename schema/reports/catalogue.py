"""The reports that there are: every file in `declarations/`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Final

from caselog.events.errors import CaselogError, did_you_mean
from caselog.schema.reports import declarations
from caselog.schema.reports.terms.report import Report


class UnknownReport(CaselogError):
    """No report has this name."""


def _found() -> dict[str, Report]:
    modules = [import_module(f"{declarations.__name__}.{m.name}") for m in iter_modules(declarations.__path__)]
    return {module.REPORT.name: module.REPORT for module in modules}


REPORTS: Final[Mapping[str, Report]] = MappingProxyType(_found())


def get_report(name: str) -> Report:
    """The report of that name. Raises `UnknownReport`, naming the nearest."""
    try:
        return REPORTS[name]
    except KeyError:
        raise UnknownReport(
            f"there is no report {name!r}.{did_you_mean(name, list(REPORTS))} See: caselog report --list"
        ) from None


def summed_reports() -> list[Report]:
    """The reports of sums, which deltas feed."""
    return [report for report in REPORTS.values() if report.counted]
