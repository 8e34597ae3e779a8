"""The hosts of a service as one worker knows them: from the log of reports, saved so that restarts lose nothing."""

import logging
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fingerpost.announcement import SERVING
from fingerpost.arrays import Floats
from fingerpost.category import OTHER
from fingerpost.clock import US, clock_us
from fingerpost.errors import RefusedError
from fingerpost.fingerprint import FINGERPRINT_HOST_COLUMNS, Fingerprint
from fingerpost.history_block import HistoryBlock
from fingerpost.serving.fleet_history import FleetHistory
from fingerpost.serving.fleet_state import HostState, silent_host
from fingerpost.serving.histories import HistoryForm
from fingerpost.serving.members import Member
from fingerpost.serving.report_log import ReportLog, SavedState
from fingerpost.serving.store import Stored, StoreError
from fingerpost.settings import Settings
from fingerpost.telemetry.history import HISTORY_HOST_PLACE
from fingerpost.window_report import ANY_TIME, SAMPLE_COLUMNS, WindowReport, unpack

logger = logging.getLogger(__name__)
# A host's state is saved this often, a few hosts at each look: 60 kB of 100 categories.
_SAVE_EVERY_S = 60.0
_SAVE_AT_ONCE = 32
# What was sampled longer ago says nothing of now.
_SAMPLE_US = 60 * US
_FROM_HISTORY = {
    "cpu_util": "host_cpu_util_ewma",
    "background_cores": "host_background_cores",
    "host_rate_rps": "host_rate_rps_ewma",
}


class HostStates:
    """Follows the log of one service.

    Attributes:
        hosts: by name; the same object as long as nothing came of a host. One that was announced is there before it has
            reported.
        members: hosts that were announced, drained or removed.
    """

    def __init__(self, service: str, log: ReportLog, settings: Settings) -> None:
        self._service, self._log = service, log
        form = HistoryForm(settings.window_s, settings.halflife_s)
        self._history = FleetHistory(form, settings.max_categories)
        # As long as the store keeps a host that is silent.
        self._forget_s = 5 * settings.fingerprint_ttl_s
        self._skew_us = round(settings.clock_skew_s * US)
        self.hosts: dict[str, HostState] = {}
        self.members: dict[str, Member] = {}
        self._samples: dict[str, tuple[int, Floats]] = {}
        # By host, the change that its state is as of; and when it was saved last, or fell silent.
        self._taken: dict[str, int] = {}
        self._saved_s: dict[str, float] = {}
        self._silent_s: dict[str, float] = {}
        self._epoch = ""

    def follow(self, epoch: str) -> None:
        """Begins to follow a log: the first time from the states that were saved, later from what is known here.

        Args:
            epoch: of the store; another one is another log, whose changes are numbered anew.

        Raises:
            StoreError: the states cannot be read now.
        """
        if epoch == self._epoch:
            return
        found = [] if self._epoch else self._log.states(self._service)
        self._epoch = epoch
        self._taken.clear()
        for state in found:
            try:
                self._history.restore(state.host, state.packed)
            except ValueError as error:
                logger.warning("the state of %s begins anew: %s", state.host, error)
                continue
            self._taken[state.host] = state.change
            self._silent_s[state.host] = time.monotonic()

    def take(self, rows: Sequence[Stored]) -> None:
        """Takes in reports in the order of their changes; what a saved state has already is not counted twice."""
        reports: list[tuple[Stored, WindowReport]] = []
        for row in rows:
            try:
                # Its times were checked when it came.
                reports.append((row, unpack(row.packed, *ANY_TIME)))
            except RefusedError as error:
                logger.warning("a stored report of %s cannot be read: %s", row.host, error.reason)
        fresh = [(row, report) for row, report in reports if row.change > self._taken.get(row.host, 0)]
        for row, _ in fresh:
            if self._history.end_us(row.host) > row.received_us + self._skew_us:
                # Of a clock that was set back since: what comes now would be too late for ever.
                self._history.forget(row.host)
        self._history.observe(report for _, report in fresh)
        self._taken.update({row.host: row.change for row, _ in fresh})
        ended = {row.host for row, report in fresh if report.end_us}
        unknown = {row.host for row, _ in reports if row.host not in self.hosts or not self.hosts[row.host].reports}
        blocks = self._history.blocks(sorted(ended | unknown))
        for row, report in reports:
            known = self.hosts.get(row.host)
            block = blocks.get(row.host) or (known.fingerprint.history if known else None)
            self._note(row, report, known, block)

    def passed_over(self) -> Mapping[str, int]:
        """What was passed over since the last call, by what it was; see `FleetHistory.counts`."""
        found, self._history.counts = self._history.counts, Counter()
        return found

    def take_members(self, changed: Sequence[Member], whole: bool) -> bool:
        """Takes what has changed of the members; tells whether a table may be another by that.

        Args:
            whole: these are all members that there are.
        """
        told, before, now_us = {each.host: each for each in changed}, dict(self.hosts), clock_us()
        moved = False
        for host in self.members.keys() - told.keys() if whole else ():
            # It has left for good.
            del self.members[host]
            if host in self.hosts:
                self.forget(host)
        for host, member in told.items():
            present, state = self.members.get(host), self.hosts.get(host)
            self.members[host] = member
            moved |= present is None or present.state != member.state
            if state is None or not state.reports:
                # Its agent is there and has not reported yet: the table has it at once, by what its class does.
                if member.state == SERVING:
                    heard_s = time.monotonic() - max(0, now_us - member.heard_us) / US
                    self.hosts[host] = silent_host(self._service, host, member, heard_s)
            elif present is None or (present.about, present.joined_us) != (member.about, member.joined_us):
                first_us = max(state.first_seen_us, member.joined_us)
                self.hosts[host] = replace(state, first_seen_us=first_us, host_class=member.about.host_class)
                moved = True
        return moved or before.keys() != self.hosts.keys()

    def present(self) -> dict[str, HostState]:
        """The hosts that are to be sent requests: those that neither drain nor were removed."""
        away = {host for host, member in self.members.items() if member.state != SERVING}
        return {host: state for host, state in self.hosts.items() if host not in away}

    def forget(self, host: str) -> None:
        """Takes a silent host out of `hosts`; its rolling state waits for some time, should it come back."""
        del self.hosts[host]
        self._samples.pop(host, None)
        self._silent_s[host] = time.monotonic()

    def save_some(self, now_s: float) -> None:
        """Saves the states of some hosts that are due; that none could be saved only makes a restart longer.

        Args:
            now_s: by `time.monotonic`.
        """
        for host in [host for host, since_s in self._silent_s.items() if now_s - since_s > self._forget_s]:
            self._history.forget(host)
            for known in (self._silent_s, self._taken, self._saved_s):
                known.pop(host, None)
        due = [host for host in self.hosts if self._is_due(host, now_s) and not self._history.waits(host)]
        made = []
        for host in due[:_SAVE_AT_ONCE]:
            self._saved_s[host] = now_s
            packed = self._history.packed(host)
            if packed is not None:
                made.append(SavedState(host, self._taken[host], packed))
        try:
            self._log.save(self._service, made)
        except StoreError as error:
            logger.warning("states are not saved: %s", error)

    def _is_due(self, host: str, now_s: float) -> bool:
        phase_s = _SAVE_EVERY_S * (zlib.crc32(host.encode()) % 1000) / 1000
        return now_s - self._saved_s.setdefault(host, now_s - phase_s) >= _SAVE_EVERY_S

    def _note(self, row: Stored, report: WindowReport, known: HostState | None, block: HistoryBlock | None) -> None:
        if report.source == "host":
            self._samples[row.host] = (report.time_us, report.sample)
        sampled_us, sample = self._samples.get(row.host, (0, report.sample))
        if sampled_us and report.time_us - sampled_us > _SAMPLE_US:
            sample = report.sample
        version = report.category_version
        if known is not None and known.reports and report.source == "proxy":
            version = known.fingerprint.category_version
        self._silent_s.pop(row.host, None)
        made = Fingerprint(
            self._service,
            row.host,
            report.boot_id,
            report.sequence,
            max(report.time_us, block.as_of_us if block else 0),
            version,
            (block.categories if block else ()) or (OTHER,),
            _host_values(sample, block),
            block,
        )
        heard_s = time.monotonic() - max(0, clock_us() - row.received_us) / US
        first_us, host_class = row.first_seen_us, ""
        if (member := self.members.get(row.host)) is not None:
            first_us, host_class = max(first_us, member.joined_us), member.about.host_class
        self.hosts[row.host] = HostState(made, row.received_us, first_us, heard_s, host_class)


def _host_values(sample: Floats, block: HistoryBlock | None) -> Floats:
    """FINGERPRINT_HOST_COLUMNS by the latest sample of a host and its history; NaN where not known."""
    sampled = dict(zip(SAMPLE_COLUMNS, sample.tolist(), strict=True))
    values = []
    for name in FINGERPRINT_HOST_COLUMNS:
        if name in _FROM_HISTORY:
            place = HISTORY_HOST_PLACE[_FROM_HISTORY[name]]
            values.append(float(block.host_values[place]) if block is not None else np.nan)
        else:
            values.append(sampled[name])
    return np.array(values, dtype=np.float64)
