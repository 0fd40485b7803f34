"""Moments as options of commands: what is no moment is refused by the option's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from zoneinfo import ZoneInfo

import typer

from caselog.workers.rows import timestamps


def moment(value: str, zone: ZoneInfo, option: str) -> datetime:
    """As `timestamps.moment`. Raises `typer.BadParameter` that names the option."""
    with _naming(option):
        return timestamps.moment(value, zone)


def beginning(value: str, zone: ZoneInfo, option: str) -> datetime:
    """As `moment`, for what starts there."""
    with _naming(option):
        return timestamps.beginning(value, zone)


@contextmanager
def _naming(option: str) -> Iterator[None]:
    try:
        yield
    except timestamps.NotAMoment as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
