"""Compiled small parts the kernel and the policies share: dice, a heap of finish times, and how a host is drawn."""

import contextlib
import hashlib
from pathlib import Path

import numpy as np
from numba import njit

from fingerpost.arrays import Floats, Ints


def forget_stale(folder: Path) -> None:
    """Removes compiled code that was made of other sources than a folder has now.

    Numba looks at the file of a function alone: constants and functions of other files that went into it may have
    changed since, and a run would go on with the old ones.
    """
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()[:16]
    cache = folder / "__pycache__"
    stamp = cache / f"compiled-{sources}"
    if stamp.exists():
        return
    with contextlib.suppress(OSError):  # a folder that cannot be written holds no compiled code
        cache.mkdir(exist_ok=True)
        for path in (*cache.glob("*.nb[ic]"), *cache.glob("compiled-*")):
            path.unlink(missing_ok=True)
        stamp.touch()


forget_stale(Path(__file__).parent)
compiled = njit(cache=True, error_model="numpy")


@compiled
def uniform(random: Ints) -> float:
    """A number in [0, 1): xorshift64* (Vigna, 2016), so that a run depends on its seed and nothing else."""
    x = np.uint64(random[0])
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    random[0] = np.int64(x)
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@compiled
def draw_host(up: Ints, random: Ints) -> int:
    """One of the hosts that are up, uniformly; -1 if there is none."""
    hosts = len(up)
    for _ in range(8):
        host = int(uniform(random) * hosts)
        if up[host]:
            return host
    count = up.sum()
    if count == 0:
        return -1
    wanted = int(uniform(random) * count)
    for host in range(hosts):
        if up[host]:
            if wanted == 0:
                return host
            wanted -= 1
    return -1


@compiled
def least_of(cost: Floats | Ints, up: Ints, random: Ints) -> int:
    """The host that is up and costs least, ties at random; -1 if there is none."""
    best, least, ties = -1, np.inf, 0
    for host in range(len(up)):
        if not up[host]:
            continue
        if cost[host] < least:
            best, least, ties = host, cost[host], 1
        elif cost[host] == least and best >= 0:
            ties += 1
            if uniform(random) * ties < 1.0:
                best = host
    return best


@compiled
def heap_push(times: Floats, places: Ints, sizes: Ints, of: int, time: float, place: int) -> None:
    """Adds a time and its place to a binary heap, whose size is `sizes[of]`."""
    at = sizes[of]
    sizes[of] = at + 1
    while at > 0:
        parent = (at - 1) >> 1
        if times[parent] <= time:
            break
        times[at], places[at] = times[parent], places[parent]
        at = parent
    times[at], places[at] = time, place


@compiled
def heap_pop(times: Floats, places: Ints, sizes: Ints, of: int) -> int:
    """Removes the earliest time, returns its place."""
    top = places[0]
    size = sizes[of] - 1
    sizes[of] = size
    time, place = times[size], places[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and times[child + 1] < times[child]:
            child += 1
        if time <= times[child]:
            break
        times[at], places[at] = times[child], places[child]
        at = child
    times[at], places[at] = time, place
    return top


@compiled
def heap_remove(times: Floats, places: Ints, sizes: Ints, of: int, place: int) -> None:
    """Removes a place that is in the heap; takes time in proportion to the heap's size."""
    size = sizes[of]
    kept_times, kept_places = times[:size].copy(), places[:size].copy()
    sizes[of] = 0
    for at in range(size):
        if kept_places[at] != place:
            heap_push(times, places, sizes, of, kept_times[at], kept_places[at])
