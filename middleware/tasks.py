"""Coroutines whose every step is charged to a request, and the task factory that makes child tasks such."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any

from fingerpost.middleware.meter import CURRENT, Meter, switch


class MeteredCoroutine(Coroutine[Any, Any, Any]):
    """Drives a coroutine by hand; a meter is charged with the CPU time of each of its steps.

    What else is asked of it (`cr_frame`, `__qualname__`) is answered by the coroutine itself.
    """

    __slots__ = ("_coroutine", "_meter")

    def __init__(self, coroutine: Any, meter: Meter) -> None:
        self._coroutine = coroutine
        self._meter = meter

    def send(self, value: Any) -> Any:
        before = switch(self._meter)
        try:
            return self._coroutine.send(value)
        finally:
            switch(before)

    def throw(self, *error: Any) -> Any:
        before = switch(self._meter)
        try:
            return self._coroutine.throw(*error)
        finally:
            switch(before)

    def close(self) -> None:
        before = switch(self._meter)
        try:
            self._coroutine.close()
        finally:
            switch(before)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)


class MeteredTaskFactory:
    """Makes tasks as the loop made them before; those created inside a request are charged to it.

    Args:
        inner: the loop's factory, or None for plain tasks.
    """

    def __init__(self, inner: Callable[..., Any] | None) -> None:
        self.inner = inner

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        context: Context | None = options.get("context")
        meter = CURRENT.get() if context is None else context.get(CURRENT)
        if meter is not None:
            coroutine = MeteredCoroutine(coroutine, meter)
        if self.inner is None:
            return asyncio.Task(coroutine, loop=loop, **options)
        return self.inner(loop, coroutine, **options)


def charge_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Has the loop charge child tasks to their requests, beside whatever task factory it has; once is enough."""
    factory = loop.get_task_factory()
    if not isinstance(factory, MeteredTaskFactory):
        loop.set_task_factory(MeteredTaskFactory(factory))
