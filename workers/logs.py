"""The log lines of caselog's own processes: readable at a terminal, JSON elsewhere."""

from __future__ import annotations

import logging
import sys

import structlog

from workers.output import visible


def configure_logs(role: str) -> None:
    """Send log lines to stderr, each naming the role; the libraries' own from warnings upwards."""
    terminal = sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
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
                _show_control_characters if terminal else structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("caselog").setLevel(logging.INFO)
    structlog.contextvars.bind_contextvars(role=role)


def _show_control_characters(
    _logger: object, _method: str, said: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Whatever a sender or a library says, a line at a terminal stays one line and moves no cursor. JSON does so."""
    return {
        name: visible(value).replace("\n", "\\n") if isinstance(value, str) else value for name, value in said.items()
    }


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """The logger of caselog's processes."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger("caselog")
    return logger
