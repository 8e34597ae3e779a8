"""Everything that BentoML and the uvicorn under it do otherwise than the engine needs, in one place.

`install` replaces two parts inside them, which no option of theirs reaches: the time limit of requests, and the
protocol of connections. The rest are the folder of shared metrics, the address they listen on, and their log lines.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import psutil

from fingerpost.logs import FewAlike
from fingerpost.serving.http import App, Message, Receive, Scope, Send, problem

# BentoML's own traffic metrics have a series for every path anybody asks for, without bound; ours are by endpoint.
# Its tracing and access log cost more than the answers themselves.
SERVICE_OPTIONS: dict[str, Any] = {
    "traffic": {"timeout": 60},
    "metrics": {"enabled": False},
    "tracing": {"excluded_urls": ".*"},
    "logging": {"access": {"enabled": False}},
}
_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_MEMORY = Path("/dev/shm")  # noqa: S108 (a folder of our own in it, which others cannot write)
_CLAIM = "kept-in-memory"


def install() -> None:
    """Puts the engine's time limit and connections in place of BentoML's and uvicorn's; before the service is made."""
    import uvicorn.config
    from bentoml._internal.server.http import traffic

    from fingerpost.serving.connections import GuardedProtocol

    # BentoML's cannot be turned off, and has no place for another.
    traffic.TimeoutMiddleware = TimeLimit  # type: ignore[misc, assignment]
    # BentoML lets uvicorn choose its protocol itself, which is what `auto` stands for.
    protocols: dict[Any, str] = uvicorn.config.HTTP_PROTOCOLS
    protocols["auto"] = f"{GuardedProtocol.__module__}:{GuardedProtocol.__name__}"


def quieten_logs() -> None:
    """Drops uvicorn's line for each request, and repeats of its warnings; after `configure_logs`."""
    # A line a request, formatted only to be thrown away, is a tenth of what a request costs.
    logging.getLogger("uvicorn.access").propagate = False
    # It warns of every request that is none.
    logging.getLogger("uvicorn.error").addFilter(FewAlike())


def listening_address() -> str | None:
    """Finds the address of the socket that BentoML hands to its workers (`--fd`); None if there is none."""
    arguments = sys.argv
    with contextlib.suppress(ValueError, IndexError, OSError):
        descriptor = int(arguments[arguments.index("--fd") + 1])
        with socket.socket(fileno=os.dup(descriptor)) as listening:
            if listening.family in (socket.AF_INET, socket.AF_INET6):
                return str(listening.getsockname()[0])
            return "127.0.0.1"
    return None


class TimeLimit:
    """Gives up a request whose answer has not begun in time, and answers 504; ASGI middleware.

    In place of BentoML's, whose timer of every request lives on for the whole time after the answer: at 700 requests/s
    the search for cyclic garbage then goes through 250,000 objects, and holds up all requests for up to 0.1 s.

    Args:
        timeout: seconds.
    """

    def __init__(self, app: App, timeout: float) -> None:
        self._app, self._timeout = app, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = asyncio.timeout(self._timeout)

        async def begun(message: Message) -> None:
            if limit.when() is not None:
                limit.reschedule(None)
            await send(message)

        try:
            async with limit:
                await self._app(scope, receive, begun)
        except TimeoutError:
            if not limit.expired():
                raise
            await problem(504, f"no answer in {self._timeout:g} s")(scope, receive, send)


def keep_in_memory(memory: Path = _MEMORY) -> None:
    """Moves the folder from the disk into memory, where there is such a place; before the first metric is made.

    Such a file is written through a mapping: on a full disk a write to it ends the process.
    """
    given = os.environ.get(_VARIABLE)
    if not given or not memory.is_dir() or Path(given).is_relative_to(memory):
        return
    # The same for all workers of an engine, and for its next life.
    name = hashlib.sha256(f"{socket.gethostname()} {os.getuid()} {given}".encode()).hexdigest()[:16]
    folder = memory / f"fingerpost-{name}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            return
        if _is_first(Path(given)):
            _forget_earlier_life(folder)
    except OSError:
        return
    os.environ[_VARIABLE] = str(folder)


def forget_dead_workers() -> None:
    """Removes the gauges of workers that are gone, which would stay at their last values for ever."""
    folder = os.environ.get(_VARIABLE)
    if not folder:
        return
    from prometheus_client.multiprocess import mark_process_dead

    for path in Path(folder).glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            mark_process_dead(int(pid))


def remove_own_metrics() -> None:
    """Removes what is in memory with the last worker: nobody else would."""
    folder = Path(os.environ.get(_VARIABLE, ""))
    if not folder.is_relative_to(_MEMORY):
        return
    for path in folder.glob(f"*_{os.getpid()}.db"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others still have theirs there
        folder.rmdir()


def _is_first(given: Path) -> bool:
    """Whether we are the first worker of this life; BentoML empties the given folder before it starts them."""
    try:
        (given / _CLAIM).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _forget_earlier_life(folder: Path) -> None:
    for path in folder.glob("*.db"):
        pid = path.stem.rpartition("_")[2]
        if not pid.isdigit() or not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)
