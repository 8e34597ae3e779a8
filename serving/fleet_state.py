"""Holds the live hosts of a service as arrays, hosts by categories: the latest rolling state of every cell."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.clock import US
from fingerpost.features.outside import NOTHING, Outside
from fingerpost.fingerprint import FINGERPRINT_HOST_COLUMNS, Fingerprint
from fingerpost.serving.members import Member
from fingerpost.telemetry.baseline import BASELINE_INPUTS, BaselineEstimates, baseline_of, host_kinds

_HOST = {name: place for place, name in enumerate(FINGERPRINT_HOST_COLUMNS)}
_CELL = {name: place for place, name in enumerate(BASELINE_INPUTS)}


@dataclass(frozen=True)
class HostState:
    """One host's latest fingerprint, made of its reports.

    Args:
        received_us, first_seen_us: of the store.
        heard_s: when it came, by this process's `time.monotonic`: its age stays right when clocks are set.
        host_class: as announced; hosts of a class are expected to be alike; empty: not announced.
    """

    fingerprint: Fingerprint
    received_us: int
    first_seen_us: int
    heard_s: float = 0.0
    host_class: str = ""

    @property
    def reports(self) -> bool:
        """Whether the host has reported; else it was only announced."""
        return bool(self.fingerprint.boot_id)


@dataclass(frozen=True)
class FleetState:
    """The live hosts of a service; H hosts and C categories, both sorted by name.

    The same hosts with the same fingerprints make the same state, whatever was before.

    Args:
        states: of the hosts, H of them.
        host_values: FINGERPRINT_HOST_COLUMNS, shape (H, 8); NaN where not known.
        cells: BASELINE_INPUTS, shape (H, C, 8); `age_s` as of the fingerprint; NaN where not known.
        category_version: of the category table most hosts use.
        outside: events and holidays that are known.
        at_us: the second for which it is to be predicted, microseconds since 1970; 0: as of the latest window.
    """

    service: str
    hosts: tuple[str, ...]
    categories: tuple[str, ...]
    states: tuple[HostState, ...]
    host_values: Floats
    cells: Floats
    category_version: str
    outside: Outside = NOTHING
    at_us: int = 0

    @property
    def times_us(self) -> Ints:
        """Times of the fingerprints, microseconds since 1970, shape (H,)."""
        return np.array([state.fingerprint.time_us for state in self.states], dtype=np.int64)

    @property
    def as_of_us(self) -> int:
        """When the latest of its fingerprints came."""
        return max((state.received_us for state in self.states), default=0)

    def host_column(self, name: str) -> Floats:
        """One of FINGERPRINT_HOST_COLUMNS, shape (H,)."""
        return self.host_values[:, _HOST[name]]

    def cell_column(self, name: str) -> Floats:
        """One of BASELINE_INPUTS, shape (H, C)."""
        return self.cells[:, :, _CELL[name]]

    def baseline(self) -> BaselineEstimates:
        """What the histories forecast without a model."""
        classes = [state.host_class for state in self.states]
        kinds = host_kinds(self.host_column("cores"), self.host_column("slots"), classes)
        return baseline_of(self.cells, kinds)


def silent_host(service: str, host: str, member: Member, heard_s: float) -> HostState:
    """The state of a host that was announced and has reported nothing yet.

    Args:
        heard_s: when it was announced last, by this process's `time.monotonic`.
    """
    values = np.full(len(FINGERPRINT_HOST_COLUMNS), np.nan)
    for name, value in (("cores", member.about.cores), ("slots", member.about.slots)):
        values[_HOST[name]] = np.nan if value is None else value
    fingerprint = Fingerprint(service, host, "", 0, member.joined_us, "", (), values)
    return HostState(fingerprint, member.heard_us, member.joined_us, heard_s, member.about.host_class)


def build_fleet(
    service: str,
    states: Mapping[str, HostState],
    max_categories: int,
    before: FleetState | None = None,
    outside: Outside = NOTHING,
    at_us: int = 0,
) -> FleetState:
    """The state of a fleet.

    Args:
        states: host to its state.
        max_categories: most categories kept: those the most hosts report, so that one host cannot push out the others'.
        before: an earlier state of the service, whose arrays are used again where they still hold.
        outside, at_us: of `FleetState`.
    """
    hosts = tuple(sorted(states))
    ordered = tuple(states[host] for host in hosts)
    if before is not None and before.hosts == hosts and _same_categories(before.states, ordered):
        return replace(_with_changes(before, ordered), outside=outside, at_us=at_us)
    categories = _choose_categories(ordered, max_categories)
    place = {name: number for number, name in enumerate(categories)}
    cells = np.full((len(hosts), len(categories), len(BASELINE_INPUTS)), np.nan)
    for row, state in enumerate(ordered):
        _fill(cells[row], state.fingerprint, place)
    values, version = _host_values(ordered), _version(ordered)
    return FleetState(service, hosts, categories, ordered, values, cells, version, outside, at_us)


def _same_categories(before: tuple[HostState, ...], after: tuple[HostState, ...]) -> bool:
    return all(
        old is new or old.fingerprint.categories == new.fingerprint.categories
        for old, new in zip(before, after, strict=True)
    )


def _with_changes(before: FleetState, states: tuple[HostState, ...]) -> FleetState:
    place = {name: number for number, name in enumerate(before.categories)}
    cells = before.cells.copy()
    for row, state in enumerate(states):
        if state is not before.states[row]:
            cells[row] = np.nan
            _fill(cells[row], state.fingerprint, place)
    version = _version(states)
    return FleetState(before.service, before.hosts, before.categories, states, _host_values(states), cells, version)


def _choose_categories(states: tuple[HostState, ...], most: int) -> tuple[str, ...]:
    hosts: Counter[str] = Counter()
    requests: Counter[str] = Counter()
    for state in states:
        names = state.fingerprint.categories
        hosts.update(names)
        if (block := state.fingerprint.history) is not None and block.fits:
            requests.update(dict(zip(block.categories, block.columns(["evidence"])[:, 0].tolist(), strict=True)))
    chosen = sorted(hosts, key=lambda name: (-hosts[name], -requests[name], name))[:most]
    return tuple(sorted(chosen))


def _fill(row: Floats, fingerprint: Fingerprint, place: dict[str, int]) -> None:
    block = fingerprint.history
    if block is None or not block.fits:
        return
    found = [(place[name], number) for number, name in enumerate(block.categories) if name in place]
    if found:
        to, of = np.array(found).T
        row[to] = block.columns(BASELINE_INPUTS)[of]
        row[to, _CELL["age_s"]] += (fingerprint.time_us - block.as_of_us) / US


def _host_values(states: tuple[HostState, ...]) -> Floats:
    return np.array([state.fingerprint.host_values for state in states]).reshape(
        len(states), len(FINGERPRINT_HOST_COLUMNS)
    )


def _version(states: tuple[HostState, ...]) -> str:
    # A host that has not reported yet names none.
    versions = Counter(state.fingerprint.category_version for state in states if state.fingerprint.boot_id)
    return min(versions, key=lambda name: (-versions[name], name), default="")
