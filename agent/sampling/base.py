"""Defines the samplers' protocol and error, utilisation from a CPU counter, and the host's own statistics."""

import http.client
import json
import math
import urllib.request
from dataclasses import dataclass
from typing import Any, Protocol

from fingerpost.clock import clock_us
from fingerpost.errors import FingerpostError

_STATS_TIMEOUT_S = 0.5
_MAX_STATS_BYTES = 64 * 1024


class SamplingError(FingerpostError):
    """The host cannot be measured now; the next time it may be."""


class NotYetError(SamplingError):
    """What is measured has only just been found: there is nothing to compare it with yet, and nothing is wrong."""


class Sampler(Protocol):
    """Measures one host."""

    def sample(self) -> dict[str, Any]:
        """One host sample; `cpu_util` is since the last one.

        Raises:
            SamplingError: the host is gone, may not be looked at, or tells nonsense.
        """
        ...

    def busy_s(self) -> float | None:
        """The CPU counter between samples, CPU-seconds, for one who asks often; None where it is dear or coarse.

        Raises:
            SamplingError: as `sample`.
        """
        ...


@dataclass(frozen=True)
class Subject:
    """Whom the samples are about.

    Args:
        cores: cores it may use; None: what the sampler finds.
        mem_limit_bytes: memory it may use; None: what the sampler finds.
        stats_url: where the host tells `{"inflight": n, "slots": n}`; None: in-flight stays unknown.
        slots: requests it serves at once, if nothing else tells.
    """

    service: str
    host: str
    cores: float | None = None
    mem_limit_bytes: int | None = None
    stats_url: str | None = None
    slots: int | None = None

    def row(
        self,
        cpu_util: float,
        cores: float,
        mem_bytes: float,
        mem_limit_bytes: float,
        used_cpu_s: float | None = None,
    ) -> dict[str, Any]:
        """The host sample of now; its values are not yet checked against their bounds.

        `used_cpu_s`, the CPU-seconds since the last sample where they are measured, is for the agent and never stored.
        """
        return {
            "time": clock_us(),
            "service": self.service,
            "host": self.host,
            "cpu_util": cpu_util,
            "cores": cores,
            "mem_bytes": int(mem_bytes),
            "mem_limit_bytes": int(mem_limit_bytes),
            "used_cpu_s": used_cpu_s,
            **self._stats(),
        }

    def _stats(self) -> dict[str, int | None]:
        if self.stats_url is None:
            return {"inflight": None, "slots": self.slots}
        try:
            with urllib.request.urlopen(self.stats_url, timeout=_STATS_TIMEOUT_S) as answer:  # noqa: S310
                stats = json.loads(answer.read(_MAX_STATS_BYTES))
            return {"inflight": int(stats["inflight"]), "slots": int(stats["slots"])}
        except (
            OSError,
            http.client.HTTPException,
            ValueError,
            LookupError,
            TypeError,
            ArithmeticError,
            RecursionError,
        ):
            return {"inflight": None, "slots": self.slots}


class CpuMeter:
    """Utilisation from a counter of CPU-seconds, by differences.

    Args:
        restarts: a counter that went back has begun anew at zero, and what it shows was used since; if False it only
            lost what was counted before (a child nobody waited for), and nothing is known of the time between.
    """

    def __init__(self, restarts: bool) -> None:
        self._restarts = restarts
        self._last: tuple[float, float] | None = None
        self.used_s = 0.0

    def utilisation(self, now_s: float, busy_s: float, cores: float) -> float | None:
        """Share of the cores that was used since the last call, 0 to 1; None at the first call.

        Args:
            now_s: seconds of a clock that never jumps; if it did go back, the share is 0.
            busy_s: the counter, CPU-seconds.
            cores: cores the host may use, above 0.

        Raises:
            SamplingError: the counter is not a finite number.
        """
        if not math.isfinite(busy_s):
            raise SamplingError(f"the CPU counter shows {busy_s}")
        last, self._last = self._last, (now_s, busy_s)
        if last is None:
            return None
        elapsed, used = now_s - last[0], busy_s - last[1]
        if used < 0:
            # One that begins anew is far below: a small step back, as after a migration, is none.
            begun_anew = self._restarts and 2 * busy_s < last[1]
            used = min(busy_s, max(0.0, elapsed) * cores) if begun_anew else 0.0
        self.used_s = used
        return min(1.0, max(0.0, used / (elapsed * cores))) if elapsed > 0 else 0.0
