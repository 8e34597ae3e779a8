"""Structured logs: one JSON object a line on standard error, or plain lines for people."""

import logging
import sys
from typing import Any

from fingerpost.shown import visible, visible_lines


class _Plain(logging.Formatter):
    """Lines for people: whatever a message quotes, it stays on its line, and changes nothing of the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = visible(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return f"  {visible_lines(super().formatException(ei))}"

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return f"  {visible_lines(super().formatStack(stack_info))}"


def configure_logs(level: str = "INFO", log_format: str = "json") -> None:
    """Sets the root logger up; extra fields go in as `logger.info("what", extra={...})`."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        from pythonjsonlogger.json import JsonFormatter

        handler.setFormatter(
            JsonFormatter(
                "%(asctime)s %(levelname)s %(name)s %(message)s",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            )
        )
    else:
        handler.setFormatter(_Plain("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # A line for every poll of a server would fill the log of a process that runs for months.
    logging.getLogger("httpx").setLevel(max(logging.WARNING, logging.getLevelName(level)))
