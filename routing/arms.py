"""The arm of a request: the same key has the same arm in every proxy."""

import struct

from fingerpost.routing.table_file import Arm, PickerTable

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_FNV_OFFSET, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


def arm_share(salt: str, key: bytes) -> float:
    """The place of a key in 0..1: FNV-1a of salt and key, finished as MurmurHash3 does, its upper 53 bits."""
    value = _FNV_OFFSET
    for byte in salt.encode() + key:
        value = ((value ^ byte) * _FNV_PRIME) & _MASK
    value = ((value ^ (value >> 33)) * 0xFF51AFD7ED558CCD) & _MASK
    value = ((value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53) & _MASK
    return ((value ^ (value >> 33)) >> 11) * 2.0**-53


def time_key(seconds: int, unix_time: float) -> bytes:
    """The key of a span of time: its number since 1970, 8 bytes, little-endian."""
    return struct.pack("<Q", int(unix_time) // seconds)


def arm_of(table: PickerTable, key: bytes) -> Arm:
    """The arm that requests with this key have: the header's value, `time_key`, or random bytes of the picker's own."""
    share = arm_share(table.settings.salt, key)
    return next((arm for arm in table.arms if share < arm.until), table.arms[-1])
