"""The log lines of caselog's own processes: readable at a terminal, JSON elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog

from caselog.events.credentials import hide
from caselog.workers.process import command_line
from caselog.workers.process.tracebacks import written
from caselog.workers.rows.output import visible


def configure_logs(role: str) -> None:
    """Send log lines to stderr, each naming the role; the libraries' own from warnings upwards."""
    terminal = sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=_traceback)
        if terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(() if terminal else (structlog.processors.format_exc_info,)),
                _hide_passwords,
                *((_show_control_characters,) if terminal else ()),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("caselog").setLevel(logging.INFO)
    structlog.contextvars.bind_contextvars(role=role)


def _traceback(out: TextIO, error: structlog.typing.ExcInfo) -> None:
    """Without the values of variables, which structlog would show at a terminal."""
    out.write(f"\n{visible(written(error[1]))}")


def _hide_passwords(_logger: object, _method: str, said: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: value if name == "exc_info" else _hidden(value) for name, value in said.items()}


def _hidden(value: Any) -> Any:
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list | tuple):
        return [_hidden(item) for item in value]
    return {name: _hidden(item) for name, item in value.items()} if isinstance(value, dict) else value


def _show_control_characters(
    _logger: object, _method: str, said: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Whatever a sender or a library says, a line at a terminal stays one line and moves no cursor. JSON does so."""
    return {
        name: visible(value).replace("\n", "\\n") if isinstance(value, str) else value for name, value in said.items()
    }


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """The logger of caselog's processes. What a command prints is its result: its log lines, too, go to stderr."""
    if command_line.is_command and not structlog.is_configured():
        configure_logs("command")
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger("caselog")
    return logger
