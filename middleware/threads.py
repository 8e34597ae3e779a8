"""Work in threads, charged to the request that asked for it.

Python has no hook for "a thread enters a context", so the two doors through which requests hand work to threads are
wrapped: `ThreadPoolExecutor.submit` (behind `asyncio.to_thread`, `run_in_executor`, asgiref) and
`anyio.to_thread.run_sync` (behind Starlette's and FastAPI's sync endpoints). Outside a request both do what they did.
"""

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import wraps
from typing import Any

from fingerpost.middleware.meter import CURRENT, run_charged

_ORIGINAL = "__fingerpost_original__"


class MeteredExecutor(ThreadPoolExecutor):
    """A thread pool that charges its work to the request that submits it, without `charge_threads`."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        meter = CURRENT.get()
        if meter is None:
            return super().submit(fn, *args, **kwargs)
        return super().submit(run_charged, meter, fn, *args, **kwargs)


def charge_threads() -> None:
    """Wraps both doors; again is harmless, and finds anyio if it was imported since. `uncharge_threads` undoes it."""
    if not hasattr(ThreadPoolExecutor.submit, _ORIGINAL):
        ThreadPoolExecutor.submit = _charged_submit(ThreadPoolExecutor.submit)  # type: ignore[method-assign]
    door = sys.modules.get("anyio.to_thread")
    if door is not None and not hasattr(door.run_sync, _ORIGINAL):
        door.run_sync = _charged_run_sync(door.run_sync)  # type: ignore[attr-defined]


def uncharge_threads() -> None:
    """Puts back what `charge_threads` wrapped, unless somebody has wrapped it again since."""
    submit = getattr(ThreadPoolExecutor.submit, _ORIGINAL, None)
    if submit is not None:
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]
    door = sys.modules.get("anyio.to_thread")
    run_sync = getattr(getattr(door, "run_sync", None), _ORIGINAL, None)
    if run_sync is not None:
        door.run_sync = run_sync  # type: ignore[union-attr]


def _charged_submit(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def submit(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        meter = CURRENT.get()
        if meter is None:
            return original(self, fn, *args, **kwargs)
        return original(self, run_charged, meter, fn, *args, **kwargs)

    setattr(submit, _ORIGINAL, original)
    return submit


def _charged_run_sync(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def run_sync(func: Callable[..., Any], *args: Any, **options: Any) -> Any:
        meter = CURRENT.get()
        if meter is None:
            return await original(func, *args, **options)
        return await original(run_charged, meter, func, *args, **options)

    setattr(run_sync, _ORIGINAL, original)
    return run_sync
