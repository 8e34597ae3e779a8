"""Msgpack from outside, read with bounds on all that it may grow to: a byte of it can become hundreds in memory."""

from dataclasses import dataclass
from typing import Any

import msgpack


@dataclass(frozen=True)
class Bounds:
    """What a message may hold; anything else in it is an error, found before memory is taken for it.

    Args:
        containers: lists and maps in all, however they lie in each other.
        array, map: entries of one list, of one map.
        text, binary: bytes of one text, of one binary.
    """

    containers: int
    array: int
    map: int = 0
    text: int = 0
    binary: int = 0


def unpacked(data: bytes, bounds: Bounds) -> Any:
    """What `data` says: numbers, texts, binaries, and lists and maps of them; maps have texts as keys.

    Raises:
        ValueError: it is not msgpack, or more than the bounds allow. The error does not hold what was read.
    """
    left = bounds.containers

    def counted(container: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"more than {bounds.containers} lists and maps")
        return container

    problem = ""
    try:
        return msgpack.unpackb(
            data,
            object_hook=counted,
            list_hook=counted,
            max_array_len=bounds.array,
            max_map_len=bounds.map,
            max_str_len=bounds.text,
            max_bin_len=bounds.binary,
            max_ext_len=0,
        )
    except Exception as error:  # whatever bytes do to a parser: bad text, deep nesting, keys that cannot be
        problem = f"{type(error).__name__}: {error}"[:200]
    raise ValueError(problem)
