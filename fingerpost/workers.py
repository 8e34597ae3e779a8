"""Who does the pieces of long work: threads of this process, or the workers of a Dask cluster; with the same result.

A piece knows nothing of the others, and nothing in it depends on how many are done at a time or where: one thread,
fixed seeds, and sums in the same order, for which BLAS gets one thread too.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

from fingerpost.settings import Settings

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(ABC):
    """Those who do the pieces of some work."""

    @abstractmethod
    def map_unordered(
        self, work: Callable[[Shared, Item], Result], items: Sequence[Item], shared: Shared
    ) -> Iterator[tuple[int, Result]]:
        """Does `work(shared, item)` for every item; yields the item's place and the result, as they are done.

        What is left is given up when a piece fails, or when the caller stops asking.

        Args:
            work: a function that another process can import, or a lambda.
            shared: what all pieces need; it is sent to each worker once.
        """

    def map(self, work: Callable[[Shared, Item], Result], items: Sequence[Item], shared: Shared) -> list[Result]:
        """The results in the order of the items."""
        found = dict(self.map_unordered(work, items, shared))
        return [found[place] for place in range(len(items))]


class LocalExecutor(Workers):
    """This process.

    Args:
        threads: pieces at a time.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def map_unordered(
        self, work: Callable[[Shared, Item], Result], items: Sequence[Item], shared: Shared
    ) -> Iterator[tuple[int, Result]]:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, "blas"):
            if self._threads == 1:
                yield from ((place, work(shared, item)) for place, item in enumerate(items))
                return
            with ThreadPoolExecutor(self._threads) as pool:
                places = {pool.submit(work, shared, item): place for place, item in enumerate(items)}
                try:
                    for done in as_completed(places):
                        yield places[done], done.result()
                finally:
                    for waiting in places:
                        waiting.cancel()


# For pieces that each need much memory, and for those that need little.
SERIAL = LocalExecutor(1)
THREADS = LocalExecutor(os.cpu_count() or 1)


@contextmanager
def workers_of(settings: Settings, here: Workers) -> Iterator[Workers]:
    """The workers of the Dask cluster that the settings name; without one, `here`. Dask is imported only if it is used.

    Raises:
        FingerpostError: the cluster does not answer, or its workers are not fit; see `fingerpost.cluster`.
    """
    if not settings.dask_address and not settings.dask_workers:
        yield here
        return
    from fingerpost.cluster import cluster

    with cluster(settings) as found:
        yield found
