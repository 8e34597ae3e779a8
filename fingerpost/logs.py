"""Structured logs: one JSON object a line on standard error, or plain lines for people."""

import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from fingerpost.masking import masked
from fingerpost.shown import visible, visible_lines

_ALIKE, _ALIKE_S = 3, 60.0
_MAX_KINDS = 1000
_NUMBERS = re.compile(r"\d+")


class _Plain(logging.Formatter):
    """Lines for people: whatever a message quotes, it stays on its line, and changes nothing of the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = visible(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return f"  {visible_lines(super().formatException(ei))}"

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return f"  {visible_lines(super().formatStack(stack_info))}"


class FewAlike(logging.Filter):
    """Of warnings and errors that differ in their numbers alone three a minute pass; the next one tells how many did
    not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # By what is said: since when it is counted, and how often it was said since.
        self._said: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record passes."""
        if record.levelno < logging.WARNING:
            return True
        kind, now_s = f"{record.name}: {_NUMBERS.sub('#', record.getMessage())}", self._clock()
        since, count = self._said.pop(kind, (now_s, 0))
        left_out = 0
        if now_s - since >= _ALIKE_S:
            since, count, left_out = now_s, 0, max(0, count - _ALIKE)
        self._said[kind] = (since, count + 1)
        if len(self._said) > _MAX_KINDS:
            self._said.pop(next(iter(self._said)), None)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} like it were left out)", None
        return count < _ALIKE


def configure_logs(level: str = "INFO", log_format: str = "json") -> None:
    """Sets the root logger up; extra fields go in as `logger.info("what", extra={...})`.

    Passwords in URLs are masked, whoever logs them: libraries tell of the addresses they could not reach.
    """
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        from pythonjsonlogger.json import JsonFormatter

        made: logging.Formatter = JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    else:
        made = _Plain("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_Masking(made))
    handler.addFilter(FewAlike())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # A line for every poll of a server would fill the log of a process that runs for months.
    logging.getLogger("httpx").setLevel(max(logging.WARNING, logging.getLevelName(level)))


class _Masking(logging.Formatter):
    """What another formatter makes, tracebacks too, without secrets."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return masked(self._inner.format(record))
