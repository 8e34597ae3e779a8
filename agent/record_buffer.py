"""The agent's door: completes and checks request records and host samples, and holds them until they are reported."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from fingerpost.client_attributes import user_agent_class
from fingerpost.clock import US
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD, refusal
from fingerpost.regions import Regions

MAX_ROWS = 50_000
# Of what is refused: what is kept of one for the quarantine, and of all between two reports.
MAX_REFUSED_BYTES = 4096
_MAX_ALL_REFUSED_BYTES = 8 * 2**20
# A wall clock that falls back by more than this against the steady one was set; what was stamped before it was set is
# read within the time after it.
_JUMP_S, _STAMPED_BEFORE_S = 1.0, 60.0


class RecordBuffer:
    """Rows that passed the door, and what was refused with its reason.

    Of what is refused the first 4096 bytes are kept, and at most 8 MiB of all until the next report; the rest is only
    counted (`refused_dropped`).

    When the clock is set back, requests that were stamped just before lie in the future. For a minute their times are
    set back as the clock was (`clock_corrected`), so that none is lost.

    Attributes:
        taken, reasons: how many request records were accepted and refused by now, the latter by reason.

    Args:
        regions: finds the region of a client.
        clock_skew_s: how far in the future a time may lie.
        max_age_s: how old a time may be.
        clock: the present, seconds since 1970.
        steady: seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        regions: Regions,
        clock_skew_s: float,
        max_age_s: float,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._regions = regions
        self._limits = (max_age_s, clock_skew_s)
        self._clock, self._steady = clock, steady
        self._offset_s = clock() - steady()
        # By how much the clock was set back lately, and until when that counts.
        self._set_back_s, self._set_back_until = 0.0, 0.0
        self.records: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.refused: list[tuple[str, bytes]] = []
        self.counts: Counter[str] = Counter()
        self.taken = 0
        self.reasons: Counter[str] = Counter()
        self._refused_bytes = 0

    @property
    def full(self) -> bool:
        """Whether no more request records should be taken before a report."""
        return len(self.records) + len(self.refused) >= MAX_ROWS

    def take(self, row: dict[str, Any], origin: bytes) -> None:
        """Takes a request record as a source made it; `origin` is what it was made from, for the quarantine.

        What sources tell of the client in their own words (`user_agent`, `region_header`, `client`: its address, and
        `client_cert`) is turned into class, region and auth method here, and goes no further.
        """
        agent, header, client = row.pop("user_agent", None), row.pop("region_header", None), row.pop("client", None)
        if row.pop("client_cert", False) and row.get("auth") in ("none", "cookie"):
            row["auth"] = "mtls"
        if agent is not None:
            row["user_agent_class"] = user_agent_class(agent)
        if header is not None or client is not None or "region" not in row:
            row["region"] = self._regions.region(header or row.get("region"), client)
        bounds = self._time_bounds()
        self._correct(row, bounds[1])
        reason = refusal(row, REQUEST_RECORD, *bounds)
        if reason is None:
            self.records.append(row)
            self.taken += 1
        else:
            self.refuse(reason, origin)

    def take_sample(self, row: dict[str, Any]) -> bool:
        """Takes a host sample; False if it is refused."""
        reason = refusal(row, HOST_SAMPLE, *self._time_bounds())
        if reason:
            self.counts[f"refused {reason}"] += 1
            return False
        self.samples.append(row)
        excess = len(self.samples) - MAX_ROWS
        if excess > 0:
            del self.samples[:excess]
            self.counts["samples_dropped"] += excess
        return True

    def refuse(self, reason: str, origin: bytes) -> None:
        """Counts a refusal, and keeps the beginning of what was refused."""
        self.counts[f"refused {reason}"] += 1
        self.reasons[reason] += 1
        kept = bytes(origin[:MAX_REFUSED_BYTES])
        if self._refused_bytes + len(kept) > _MAX_ALL_REFUSED_BYTES:
            self.counts["refused_dropped"] += 1
            return
        self._refused_bytes += len(kept)
        self.refused.append((reason, kept))

    def clear(self) -> None:
        """Forgets what has been reported."""
        self.counts["records"] += len(self.records)
        self.counts["samples"] += len(self.samples)
        self.records, self.samples, self.refused = [], [], []
        self._refused_bytes = 0

    def _correct(self, row: dict[str, Any], latest_us: int) -> None:
        """Sets a time back that the clock stamped before it was set back itself."""
        time_us = row.get("time")
        back_us = round(self._set_back_s * US)
        if back_us and type(time_us) is int and latest_us < time_us <= latest_us + back_us:
            row["time"] = time_us - back_us
            self.counts["clock_corrected"] += 1

    def _notice_jump(self, now: float) -> None:
        steady = self._steady()
        offset = now - steady
        if steady > self._set_back_until:
            self._set_back_s = 0.0
        if offset < self._offset_s - _JUMP_S:
            self._set_back_s += self._offset_s - offset
            self._set_back_until = steady + _STAMPED_BEFORE_S
        self._offset_s = offset

    def _time_bounds(self) -> tuple[int, int]:
        now = self._clock()
        self._notice_jump(now)
        max_age_s, clock_skew_s = self._limits
        return int((now - max_age_s) * US), int((now + clock_skew_s) * US)
