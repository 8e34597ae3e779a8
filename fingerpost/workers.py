"""Runs the pieces of long work in threads of this process, or on the workers of a Dask cluster, with the same result.

A piece knows nothing of the others, and nothing in it depends on how many run at a time or where: one thread, fixed
seeds, and sums in the same order, for which BLAS gets one thread too. Dask is imported only where it is used.
"""

import contextlib
import logging
import os
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fingerpost.errors import FingerpostError
from fingerpost.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)
Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")

_TIMEOUT_S = 10.0
# Times that one call of `map` sends work again.
_MAX_LOSSES = 4
# Packages that decide on the last bit of a result.
_SAME = ("fingerpost", "lightgbm", "numpy", "pandas", "pyarrow", "scipy")


class Workers(ABC):
    """Runs pieces of work side by side; several threads may ask it at a time."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Pieces that run at a time."""

    @abstractmethod
    def map(self, work: Callable[[Shared, Item], Result], items: Sequence[Item], shared: Shared) -> list[Result]:
        """Calls `work(shared, item)` for every item; returns the results in the order of the items.

        Pieces that wait are given up when one fails.

        Args:
            work: a function that another process can import, or a lambda.
            shared: data of all pieces. A cluster keeps those of the last call: give the same object again.
        """


class LocalExecutor(Workers):
    """Runs pieces in threads of this process.

    Args:
        threads: pieces at a time.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads

    @property
    def size(self) -> int:
        return self._threads

    def map(self, work: Callable[[Shared, Item], Result], items: Sequence[Item], shared: Shared) -> list[Result]:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, "blas"):
            if self._threads == 1 or len(items) == 1:
                return [work(shared, item) for item in items]
            with ThreadPoolExecutor(self._threads) as pool:
                return list(pool.map(partial(work, shared), items))


# For pieces that each need much memory, and for those that need little.
SERIAL = LocalExecutor(1)
THREADS = LocalExecutor(os.cpu_count() or 1)


class DaskWorkers(Workers):
    """Runs pieces on a cluster. Those of a worker that dies go to others, up to Dask's `allowed-failures`."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._lock = threading.Lock()
        self._held: tuple[Any, Any] = (None, None)

    @property
    def size(self) -> int:
        return max(1, sum(self._client.nthreads().values()))

    def map(self, work: Callable[[Shared, Item], Result], items: Sequence[Item], shared: Shared) -> list[Result]:
        from distributed import as_completed
        from distributed.client import FutureCancelledError

        results: dict[int, Result] = {}
        losses = 0
        while len(results) < len(items):
            held = self._scattered(shared)
            places = {
                self._client.submit(_piece, work, held, item, pure=False): place
                for place, item in enumerate(items)
                if place not in results
            }
            try:
                for done in as_completed(list(places), loop=self._client.loop):
                    results[places[done]] = done.result()
            except FutureCancelledError as error:
                # Dask keeps as few copies as it sees fit: the last one of what is shared can go with a worker.
                losses += 1
                if losses == _MAX_LOSSES or error.reason == "scheduler-connection-lost":
                    raise
                logger.warning("sending %d pieces of work again: %s", len(items) - len(results), error)
                with self._lock:
                    if self._held[1] is held:
                        self._held = (None, None)
            finally:
                # A scheduler that is gone has nothing left to give up.
                with contextlib.suppress(Exception):
                    self._client.cancel(list(places), force=True)
        return [results[place] for place in range(len(items))]

    def _scattered(self, shared: object) -> Any:
        """The future of what is shared, which is sent to all workers once as long as it stays the same object."""
        with self._lock:
            if self._held[1] is None or self._held[0] is not shared:
                [future] = self._client.scatter([shared], broadcast=True, hash=False)
                self._held = (shared, future)
            return self._held[1]


@contextmanager
def workers_of(settings: Settings, local: Workers) -> Iterator[Workers]:
    """The workers of the Dask cluster at `dask_address`, or of one of `dask_workers` processes; without both, `local`.

    The cluster of this machine ends with the context. Only this process has its keys, which exist in memory alone.

    Raises:
        FingerpostError: Dask is not installed, no scheduler answers, or the workers are none, have other versions of
            what the result depends on, or do not see the lake; the message names the setting, and what to do.
    """
    if not settings.dask_address and not settings.dask_workers:
        yield local
        return
    if settings.dask_address:
        named = f"FINGERPOST_DASK_ADDRESS={settings.dask_address}"
    else:
        named = f"FINGERPOST_DASK_WORKERS={settings.dask_workers}"
    try:
        import dask
        import distributed
        from distributed.security import Security
    except ImportError as error:
        raise FingerpostError(f"{named} needs Dask, which is not installed: pip install 'fingerpost[dask]'") from error
    # It logs every connection that comes and goes at INFO.
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with contextlib.ExitStack() as stack:
        address: Any = settings.dask_address
        if not address:
            # Whoever reaches a scheduler or worker runs code there: other users of the machine must not.
            security = Security.temporary()
            stack.enter_context(dask.config.set({"distributed.scheduler.http.routes": []}))
            address = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=settings.dask_workers,
                    threads_per_worker=1,
                    processes=True,
                    host=LOOPBACK,
                    dashboard_address=f"{LOOPBACK}:0",
                    security=security,
                    silence_logs=logging.ERROR,
                    # The limit is the machine's: a worker that Dask stops at its share would be started over and over.
                    memory_limit=0,
                )
            )
        try:
            client = stack.enter_context(distributed.Client(address, timeout=_TIMEOUT_S, set_as_default=False))
        except (OSError, TimeoutError) as error:
            raise FingerpostError(
                f"{named}: no Dask scheduler answers there within {_TIMEOUT_S:g} s; "
                "is `dask scheduler` running, and can this machine reach it?"
            ) from error
        _check_workers(client, settings, named)
        yield DaskWorkers(client)


def _piece(work: Callable[[Shared, Item], Result], shared: Shared, item: Item) -> Result:
    from threadpoolctl import threadpool_limits

    # Not lifted afterwards: another thread of this worker may be at its piece still.
    threadpool_limits(1, "blas")
    return work(shared, item)


def _check_workers(client: "Client", settings: Settings, named: str) -> None:
    """Refuses workers whose results could differ from those of this process."""
    try:
        client.wait_for_workers(1, timeout=_TIMEOUT_S)
    except TimeoutError as error:
        raise FingerpostError(f"{named}: the scheduler has no workers; start `dask worker`") from error
    about: Any = client.get_versions(packages=list(_SAME))
    mine = _versions(about["client"])
    for worker, found in about["workers"].items():
        theirs = _versions(found)
        other = [f"{name} {theirs[name]}, here {mine[name]}" for name in mine if theirs[name] != mine[name]]
        if other:
            raise FingerpostError(f"{named}: worker {worker} has {'; '.join(other)}: install the same")
    marker = settings.lake / f".seen-by-{uuid.uuid4().hex}"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    try:
        seen: dict[str, bool] = client.run(os.path.exists, str(marker))
    finally:
        marker.unlink(missing_ok=True)
    for worker, sees_lake in seen.items():
        if not sees_lake:
            raise FingerpostError(
                f"{named}: worker {worker} does not see {settings.lake}: "
                "the lake must be on a file system that all workers share, under the same path"
            )


def _versions(about: Any) -> dict[str, str]:
    """Python's and the packages' versions, out of what `Client.get_versions` tells of one process."""
    found = {name: about["packages"].get(name) or "not installed" for name in _SAME}
    return {"python": ".".join(about["host"]["python"].split(".")[:2]), **found}
