"""Spans of our own, sent by OTLP where OpenTelemetry's variables name an endpoint; elsewhere nothing is imported.

They are those of the OpenTelemetry SDK: `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` (HTTP),
`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_SDK_DISABLED`. Needs the extra `traces`.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from fingerpost.masking import described

_LOG = logging.getLogger(__name__)
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FLUSH_MS = 5000
# A collector that is away must not hold up an end for longer than this.
_EXPORT_S = "3"
Value = str | bool | int | float


class Span:
    """A span under way; where there is no endpoint it notes nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def note(self, **attributes: Value) -> None:
        """Notes attributes; `_` in a name stands for the point in OpenTelemetry's names, and `__` for `_`."""
        if self._span is not None:
            self._span.set_attributes({_otel_name(name): value for name, value in attributes.items()})

    def name(self, name: str) -> None:
        """Gives it another name, where the right one is known only later."""
        if self._span is not None:
            self._span.update_name(name)

    def failed(self, why: str) -> None:
        """Marks it as failed."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, why))


_NONE = Span()
# Not OpenTelemetry's own notion of the present span: libraries around us put theirs there, which nobody sends.
_PRESENT: ContextVar[Any] = ContextVar("fingerpost_span", default=None)


def traced() -> bool:
    """Whether spans are sent."""
    return _provider() is not None


@contextmanager
def span(name: str, caller: Mapping[str, str] | None = None, **attributes: Value) -> Iterator[Span]:
    """A span around what the context holds, within the one of ours that is under way, if there is one.

    An error that passes through marks it as failed, with its text but without passwords.

    Args:
        caller: it answers a request with these headers, and is part of the trace that they may name (`traceparent`).
        attributes: see `Span.note`.
    """
    provider = _provider()
    if provider is None:
        yield _NONE
        return
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    present = _PRESENT.get()
    if caller is not None:
        within = TraceContextTextMapPropagator().extract(caller, Context())
    else:
        within = set_span_in_context(present, Context()) if present is not None else Context()
    kind = SpanKind.INTERNAL if caller is None else SpanKind.SERVER
    started = provider.get_tracer("fingerpost").start_span(name, within, kind)
    made, before = Span(started), _PRESENT.set(started)
    made.note(**attributes)
    try:
        yield made
    except BaseException as error:
        made.failed(described(error))
        raise
    finally:
        _PRESENT.reset(before)
        started.end()


def _otel_name(name: str) -> str:
    return name.replace("__", " ").replace("_", ".").replace(" ", "_")


def flush() -> None:
    """Sends what has ended; for processes that end without a word."""
    provider = _provider()
    if provider is not None:
        provider.force_flush(_FLUSH_MS)


def _provider() -> Any:
    # Of each process its own: threads do not outlive a fork.
    return _made(os.getpid()) if any(os.environ.get(name) for name in _ENDPOINTS) else None


@cache
def _made(_pid: int) -> Any:
    """OpenTelemetry's provider; None where it is switched off, or not installed."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        _LOG.warning("no spans are sent: %s is not installed; pip install 'fingerpost[traces]'", error.name)
        return None
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", _EXPORT_S)
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "fingerpost"}
    # Not the process's own provider: libraries around us have theirs.
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
