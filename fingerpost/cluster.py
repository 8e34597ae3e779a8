"""A Dask cluster as `fingerpost.workers.Workers`: its workers are looked at once, then given pieces of work."""

import contextlib
import logging
import platform
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fingerpost.errors import FingerpostError
from fingerpost.settings import LOOPBACK, Settings
from fingerpost.workers import Item, Result, Shared, Workers

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)
_TIMEOUT_S = 10.0
# In one batch of pieces.
_MAX_LOSSES = 4
# What decides on the last bit of a result.
_SAME = ("fingerpost", "lightgbm", "numpy", "pandas", "pyarrow", "scipy")


class DaskWorkers(Workers):
    """The workers of a cluster. Pieces of a worker that dies are done by others, up to Dask's `allowed-failures`."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def map_unordered(
        self, work: Callable[[Shared, Item], Result], items: Sequence[Item], shared: Shared
    ) -> Iterator[tuple[int, Result]]:
        from distributed.client import FutureCancelledError

        left = dict(enumerate(items))
        losses = 0
        while left:
            try:
                for place, result in self._once(work, dict(left), shared):
                    del left[place]
                    yield place, result
            except FutureCancelledError as error:
                # Dask keeps as few copies as it thinks fit: the last one of what is shared can go with a worker.
                losses += 1
                if losses == _MAX_LOSSES or error.reason == "scheduler-connection-lost":
                    raise
                logger.warning("sending %d pieces of work again: %s", len(left), error)

    def _once(
        self, work: Callable[[Shared, Item], Result], items: dict[int, Item], shared: Shared
    ) -> Iterator[tuple[int, Result]]:
        from distributed import as_completed

        [held] = self._client.scatter([shared], broadcast=True, hash=False)
        places = {self._client.submit(_piece, work, held, item, pure=False): place for place, item in items.items()}
        try:
            for done in as_completed(list(places), loop=self._client.loop):
                yield places[done], done.result()
        finally:
            # A scheduler that is gone has nothing left to give up.
            with contextlib.suppress(Exception):
                self._client.cancel(list(places), force=True)


@contextmanager
def cluster(settings: Settings) -> Iterator[Workers]:
    """Connects to the cluster at `dask_address`, or makes one of `dask_workers` processes that ends with the context.

    To the latter only this process has the keys, which exist in memory alone.

    Raises:
        FingerpostError: Dask is not installed, no scheduler answers, or the workers are none, have other versions of
            what the result depends on, or do not see the lake; the message names the setting, and what to do.
    """
    try:
        import dask
        import distributed
        from distributed.security import Security
    except ImportError as error:
        raise FingerpostError(
            f"{_setting(settings)} needs Dask, which is not installed: pip install 'fingerpost[dask]'"
        ) from error
    # Every connection that comes and goes is told of at INFO.
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
                f"{_setting(settings)}: no Dask scheduler answers there within {_TIMEOUT_S:g} s; "
                "is `dask scheduler` running, and can this machine reach it?"
            ) from error
        _look_at(client, settings)
        yield DaskWorkers(client)


def _setting(settings: Settings) -> str:
    if settings.dask_address:
        return f"FINGERPOST_DASK_ADDRESS={settings.dask_address}"
    return f"FINGERPOST_DASK_WORKERS={settings.dask_workers}"


def _piece(work: Callable[[Shared, Item], Result], shared: Shared, item: Item) -> Result:
    from threadpoolctl import threadpool_limits

    # Not lifted afterwards: another thread of this worker may be at its piece still.
    threadpool_limits(1, "blas")
    return work(shared, item)


def _look_at(client: "Client", settings: Settings) -> None:
    """Refuses workers that could not do the same as this process."""
    try:
        client.wait_for_workers(1, timeout=_TIMEOUT_S)
    except TimeoutError as error:
        raise FingerpostError(f"{_setting(settings)}: the scheduler has no workers; start `dask worker`") from error
    marker = settings.lake / f".seen-by-{uuid.uuid4().hex}"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    try:
        found: dict[str, tuple[dict[str, str], bool]] = client.run(_about, str(marker))
    except (ImportError, AttributeError) as error:
        raise FingerpostError(
            f"{_setting(settings)}: a worker lacks this version of fingerpost ({error}): install it there"
        ) from error
    finally:
        marker.unlink(missing_ok=True)
    mine = _versions()
    for worker, (versions, sees_lake) in found.items():
        other = [f"{name} {versions[name]}, here {mine[name]}" for name in mine if versions[name] != mine[name]]
        if other:
            raise FingerpostError(f"{_setting(settings)}: worker {worker} has {'; '.join(other)}: install the same")
        if not sees_lake:
            raise FingerpostError(
                f"{_setting(settings)}: worker {worker} does not see {settings.lake}: "
                "the lake must be on a file system that all workers share, under the same path"
            )


def _about(marker: str) -> tuple[dict[str, str], bool]:
    """What a worker has installed, and whether it sees a file."""
    return _versions(), Path(marker).exists()


def _versions() -> dict[str, str]:
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _SAME:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
