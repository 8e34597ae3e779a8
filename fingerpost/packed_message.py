"""Messages of many packed parts: msgpack in gzip, opened with bounds on all that they may grow to."""

import gzip
import zlib
from collections.abc import Sequence

import msgpack

from fingerpost.bounded import Bounds, unpacked
from fingerpost.errors import RefusedError

MAX_MESSAGE_BYTES = 4 * 2**20
MAX_UNPACKED_BYTES = 32 * 2**20
MAX_PARTS = 1000
# zlib's way to say that a header and trailer of gzip are there.
_GZIP = 31
_HEAD_BYTES = 16
_MESSAGE = Bounds(containers=1, array=MAX_PARTS, binary=MAX_UNPACKED_BYTES)


def message(packed: Sequence[bytes]) -> bytes:
    """Several packed parts as one message."""
    return gzip.compress(msgpack.packb(list(packed)), compresslevel=6)


def open_message(body: bytes) -> list[bytes]:
    """The packed parts of a message, not yet looked into.

    Raises:
        RefusedError: `message:too_large`, `message:malformed` or `message:too_many`.
    """
    found = _opened(body)
    if isinstance(found, str):
        raise RefusedError(found)
    return found


def _opened(body: bytes) -> list[bytes] | str:
    """The parts of a message, or why there are none: an error from in here would hold on to all that was unpacked."""
    if len(body) > MAX_MESSAGE_BYTES:
        return "message:too_large"
    unpacker = zlib.decompressobj(_GZIP)
    try:
        # How many there are stands at the beginning: what has too many is not unpacked to its end.
        plain = unpacker.decompress(body, _HEAD_BYTES)
        if _length(plain) > MAX_PARTS:
            return "message:too_many"
        plain += unpacker.decompress(unpacker.unconsumed_tail, MAX_UNPACKED_BYTES - _HEAD_BYTES)
    except zlib.error:
        return "message:malformed"
    if unpacker.unconsumed_tail:
        return "message:too_large"
    if not unpacker.eof or unpacker.unused_data:
        return "message:malformed"
    try:
        parts = unpacked(plain, _MESSAGE)
    except ValueError:
        return "message:malformed"
    if not isinstance(parts, list) or set(map(type, parts)) - {bytes}:
        return "message:malformed"
    return parts


def _length(plain: bytes) -> int:
    """The number of entries that a long list says it has; 0 for anything else."""
    wide = {0xDC: 2, 0xDD: 4}.get(plain[0], 0) if plain else 0
    return int.from_bytes(plain[1 : 1 + wide], "big")
