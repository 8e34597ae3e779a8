"""Finds what is wrong with an engine, and says it in words."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fingerpost.home import disk_of
from fingerpost.serving.views import ServiceView

_DISKS_EVERY_S = 10.0
_SPAN_S = 60.0
# Fewer refusals are somebody's mistake, or his test.
_MIN_REFUSED = 10
_MAX_REFUSED = 0.1


def table_problems(views: Iterable[ServiceView], ttl_s: float, silent_s: float) -> dict[str, str]:
    """Finds what is wrong with the tables of the services that are asked for.

    Args:
        ttl_s: how long a table may be used, seconds.
        silent_s: silence after which a host has left its table, seconds.
    """
    found = {}
    for view in views:
        published = view.published
        if view.empty:
            found[f"hosts of {view.service}"] = (
                f"none has reported for {silent_s:g} s: pickers balance without predictions"
            )
        elif published is not None and published.age_s > ttl_s:
            found[f"table of {view.service}"] = (
                f"it expired {published.age_s - ttl_s:.0f} s ago: pickers balance without predictions"
            )
    return found


class RefusalRate:
    """Counts what was refused in the last minute or two; safe in several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._since = clock()
        self._now: tuple[int, Counter[str]] = (0, Counter())
        self._before: tuple[int, Counter[str]] = (0, Counter())

    def note(self, taken: int, reasons: Mapping[str, int]) -> None:
        """Counts reports, or messages, that were taken and those that were refused, by reason."""
        with self._lock:
            self._turn()
            all_taken, refused = self._now
            refused.update(reasons)
            self._now = (all_taken + taken, refused)

    def problems(self) -> dict[str, str]:
        """Says if too much was refused, and why most of it was."""
        with self._lock:
            self._turn()
            taken, refused = self._now[0] + self._before[0], self._now[1] + self._before[1]
        count = refused.total()
        if count < _MIN_REFUSED or count <= _MAX_REFUSED * (count + taken):
            return {}
        reason, most = refused.most_common(1)[0]
        return {"refused": f"{count} of {count + taken} in the last minutes, {most} of them for {reason}"}

    def _turn(self) -> None:
        passed = self._clock() - self._since
        if passed >= _SPAN_S:
            self._before = self._now if passed < 2 * _SPAN_S else (0, Counter())
            self._now = (0, Counter())
            self._since = self._clock()


class DiskWatch:
    """Watches the free space of some folders' file systems; in a thread, since one that hangs would hold up all.

    Args:
        folders: by the name in their problems; folders on one file system are named once.
        low_mb: with less room than this there is a problem, megabytes.
    """

    def __init__(self, folders: Mapping[str, Path], low_mb: float) -> None:
        self._folders, self._low_mb = folders, low_mb
        self._found: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="disks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def problems(self) -> dict[str, str]:
        """Returns what was wrong at the last look."""
        return self._found

    def _follow(self) -> None:
        while True:
            self._found = disk_problems(self._folders, self._low_mb)
            if self._stop.wait(_DISKS_EVERY_S):
                return


def disk_problems(folders: Mapping[str, Path], low_mb: float) -> dict[str, str]:
    """Finds file systems that are full or nearly; see `DiskWatch`."""
    found: dict[str, str] = {}
    seen: set[int] = set()
    for name, folder in folders.items():
        try:
            # A folder that is not made yet will lie where the nearest one above it does.
            there = next(each for each in (folder, *folder.parents) if each.exists())
            device, problem = there.stat().st_dev, disk_of(there).problem(low_mb)
        except OSError as error:
            found[f"disk of {name}"] = f"{folder}: {error.strerror}"
            continue
        if problem and device not in seen:
            found[f"disk of {name}"] = f"{folder}: {problem}"
        seen.add(device)
    return found
