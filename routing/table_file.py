"""The file that the router writes and the native picker reads (`routing/native/table.c`): pure encoding and decoding.

Little-endian: magic, checksum, then sizes, times, settings, names, route templates, arms, and for every matrix,
category and host (the last column is for hosts the table does not know) the two terms of the cost as float32; then for
each of them its weight for exploration.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fingerpost.arrays import Floats32
from fingerpost.errors import RefusedError

MAGIC = b"FPTABLE\x02"
POLICIES = ("fingerpost", "least_request", "random")
ARM_MODES = ("request", "header", "time")
MAX_HOSTS, MAX_CATEGORIES, MAX_TEMPLATES, MAX_ARMS, MAX_MATRICES = 16_384, 4_096, 8_192, 16, 16
_HEAD = struct.Struct("<IIQQ10If")
_ARM = struct.Struct("<IIf")
_PREFIX = len(MAGIC) + 8


@dataclass(frozen=True)
class Arm:
    """An arm of an experiment.

    Args:
        policy: `fingerpost`, `least_request` or `random`.
        matrix: which of the table's matrices predicts for it.
        until: upper end of its part of 0..1; it begins where the arm before it ends.
    """

    name: str = "main"
    policy: str = "fingerpost"
    matrix: int = 0
    until: float = 1.0
    model_version: str = ""


@dataclass(frozen=True)
class PickerSettings:
    """How a picker chooses.

    Args:
        scan_limit: hosts up to which all are looked at; of larger fleets `sample` at random.
        choices: hosts that the least-request fallback draws, 0: it looks at all.
        exploration: share of the requests that are explored.
        arm_mode: arms by `request` (id), by `header` (`arm_header`) or by `time` (spans of `arm_seconds`).
        salt: other salts give other arms to the same keys.
    """

    scan_limit: int = 1024
    sample: int = 64
    choices: int = 2
    exploration: float = 0.01
    arm_mode: str = "request"
    arm_header: str = ""
    arm_seconds: int = 60
    salt: str = ""


@dataclass(frozen=True)
class PickerTable:
    """What a picker knows of a service.

    Args:
        created_us, expires_us: microseconds since 1970.
        hosts: names, as the endpoints' metadata in Envoy's configuration has them.
        categories: names; `other` among them.
        routes: route templates, as `fingerpost.route_templates.normal_template` returns them.
        slope, offset: the cost's terms (`routing.cost.cost_terms`), shape (matrices, categories, hosts + 1); the last
            column is for hosts that are not in `hosts`.
        explore: weights for exploration (`routing.cost.exploration_weight`), same shape; None: all alike. Where the
            slope is infinite they count for nothing.
    """

    version: str
    created_us: int
    expires_us: int
    hosts: tuple[str, ...]
    categories: tuple[str, ...]
    routes: tuple[str, ...]
    slope: Floats32
    offset: Floats32
    arms: tuple[Arm, ...] = (Arm(),)
    settings: PickerSettings = field(default_factory=PickerSettings)
    explore: Floats32 | None = None


def encode(table: PickerTable) -> bytes:
    """The file's bytes.

    Raises:
        ValueError: more of anything than a picker takes, shapes that do not fit, or names that are too long.
    """
    _check(table)
    has = table.settings
    counts = (len(table.hosts), len(table.categories), len(table.routes), len(table.arms), len(table.slope))
    choosing = (has.scan_limit, has.sample, has.choices, ARM_MODES.index(has.arm_mode), has.arm_seconds)
    texts = (table.version, has.salt, has.arm_header, *table.hosts, *table.categories, *table.routes)
    arms = b"".join(
        _ARM.pack(POLICIES.index(arm.policy), arm.matrix, arm.until) + _text(arm.name) + _text(arm.model_version)
        for arm in table.arms
    )
    names = b"".join(map(_text, texts)) + arms
    names += bytes(-(_PREFIX + _HEAD.size + len(names)) % 4)
    explore = np.where(np.isfinite(table.slope), 1.0 if table.explore is None else table.explore, 0.0)
    cells = np.stack([table.slope, table.offset], axis=-1).astype("<f4").tobytes() + explore.astype("<f4").tobytes()
    size = _PREFIX + _HEAD.size + len(names) + len(cells)
    times = (table.created_us, table.expires_us)
    body = _HEAD.pack(size, 0, *times, *counts, *choosing, has.exploration) + names + cells
    return MAGIC + struct.pack("<Q", _checksum(body)) + body


def decode(data: bytes) -> PickerTable:
    """The table in a file's bytes.

    Raises:
        RefusedError: `table:magic`, `table:checksum` or `table:malformed`.
    """
    if not data.startswith(MAGIC):
        raise RefusedError("table:magic")
    if len(data) < _PREFIX or _checksum(data[_PREFIX:]) != struct.unpack_from("<Q", data, len(MAGIC))[0]:
        raise RefusedError("table:checksum")
    try:
        return _decode(data)
    except (struct.error, ValueError, LookupError) as error:
        raise RefusedError("table:malformed") from error


def _decode(data: bytes) -> PickerTable:
    _size, _zero, created, expires, *counts = _HEAD.unpack_from(data, _PREFIX)
    hosts, categories, routes, arm_count, matrices, scan, sample, choices, mode, seconds, exploration = counts
    at = _PREFIX + _HEAD.size
    texts: list[str] = []
    for _ in range(3 + hosts + categories + routes):
        found, at = _take_text(data, at)
        texts.append(found)
    arms = []
    for _ in range(arm_count):
        policy, matrix, until = _ARM.unpack_from(data, at)
        name, at = _take_text(data, at + _ARM.size)
        model_version, at = _take_text(data, at)
        arms.append(Arm(name, POLICIES[policy], matrix, until, model_version))
    at += -at % 4
    shape, costs = (matrices, categories, hosts + 1), 2 * matrices * categories * (hosts + 1)
    values = np.frombuffer(data, "<f4", offset=at)
    cells, explore = values[:costs].reshape(*shape, 2), values[costs:].reshape(shape)
    version, salt, header, *names = texts
    return PickerTable(
        version,
        created,
        expires,
        tuple(names[:hosts]),
        tuple(names[hosts : hosts + categories]),
        tuple(names[hosts + categories :]),
        cells[..., 0],
        cells[..., 1],
        tuple(arms),
        PickerSettings(scan, sample, choices, exploration, ARM_MODES[mode], header, seconds, salt),
        explore,
    )


def _check(table: PickerTable) -> None:
    for names, most, what in (
        (table.hosts, MAX_HOSTS, "hosts"),
        (table.categories, MAX_CATEGORIES, "categories"),
        (table.routes, MAX_TEMPLATES, "route templates"),
        (table.arms, MAX_ARMS, "arms"),
        (table.slope, MAX_MATRICES, "matrices"),
    ):
        if len(names) > most:
            raise ValueError(f"a picker takes at most {most} {what}, not {len(names)}")
    cells = (len(table.slope), len(table.categories), len(table.hosts) + 1)
    if not table.arms or not len(table.slope) or table.slope.shape != cells or table.offset.shape != cells:
        raise ValueError(f"the cost's terms must have the shape {cells}")
    if table.explore is not None and not (
        table.explore.shape == cells and ((table.explore >= 0) & (table.explore <= 1)).all()
    ):
        raise ValueError(f"the weights for exploration must be from 0 to 1, and have the shape {cells}")
    ends = [arm.until for arm in table.arms]
    if ends != sorted(ends) or not all(arm.matrix < len(table.slope) for arm in table.arms):
        raise ValueError("arms must come in order and name matrices that are there")


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) > 0xFFFF:
        raise ValueError("a name is longer than 65535 bytes")
    return struct.pack("<H", len(data)) + data


def _take_text(data: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + struct.unpack_from("<H", data, at)[0]
    if end > len(data):
        raise ValueError("cut off")
    return data[at + 2 : end].decode(), end


def _checksum(body: bytes) -> int:
    """Two running sums over 32-bit words; tells a file that was cut or mixed from a whole one."""
    words = np.frombuffer(body, "<u4", count=len(body) // 4).astype(np.uint64)
    first = np.cumsum(words, dtype=np.uint64)
    second = int(first.sum(dtype=np.uint64)) if len(first) else 0
    last = int(first[-1]) if len(first) else 0
    return (last ^ (second << 1)) & 0xFFFF_FFFF_FFFF_FFFF


def arms_of_shares(shares: Sequence[tuple[Arm, float]]) -> tuple[Arm, ...]:
    """Arms with their shares as parts of 0..1, one after the other; the shares are brought to a sum of 1."""
    total, ends, at = sum(share for _, share in shares), [], 0.0
    for arm, share in shares:
        at += share / total
        ends.append(Arm(arm.name, arm.policy, arm.matrix, min(at, 1.0), arm.model_version))
    return tuple(ends)
