"""OpenTelemetry spans between the HTTP port that takes them and the agent that reads them."""

import threading
from collections import Counter, deque
from typing import Any

from fingerpost.agent.otlp import export_response, parse_traces

_MAX_RECORDS = 50_000


class OtlpQueue:
    """Holds at most 50,000 records; past that new ones are dropped and counted.

    Args:
        service, host: whose records the spans become.
    """

    def __init__(self, service: str, host: str) -> None:
        self._identity = (service, host)
        self._records: deque[dict[str, Any]] = deque()
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self.counts: Counter[str] = Counter()

    def take(self, body: bytes, content_type: str, content_encoding: str) -> tuple[bytes, str]:
        """Takes an export in and gives the answer that the protocol asks for, with its content type.

        Raises:
            RefusedError: the body cannot be read.
        """
        service, host = self._identity
        # One at a time: what a body takes while it is read is many times its size.
        with self._reading:
            spans = parse_traces(body, content_type, content_encoding, service, host)
        with self._lock:
            room = _MAX_RECORDS - len(self._records)
            self._records.extend(spans.records[:room])
            self.counts["spans_dropped"] += max(0, len(spans.records) - room)
            self.counts.update({f"span_{name}": count for name, count in spans.skipped.items()})
            self.counts.update({f"refused {reason}": count for reason, count in spans.refused.items()})
        return export_response(content_type, spans.refused.total(), spans.refused), content_type

    def close(self) -> None:
        """The door that fills the queue closes by itself; what is left in it goes."""
        self._records.clear()

    def records(self) -> list[dict[str, Any]]:
        """What has come since the last call."""
        with self._lock:
            taken = list(self._records)
            self._records.clear()
        return taken
