"""Host samples by psutil: of one process and its children, or of the whole machine."""

import json
import time
import urllib.request
from typing import Any

import psutil

_STATS_TIMEOUT_S = 0.5


class HostSampler:
    """Measures one host.

    Args:
        pid: the service's process; None: the whole machine.
        cores: cores it may use; None: those of the machine.
        mem_limit_bytes: memory it may use; None: that of the machine.
        stats_url: where the host tells `{"inflight": n, "slots": n}`; None: both stay unknown.
    """

    def __init__(
        self,
        service: str,
        host: str,
        pid: int | None = None,
        cores: float | None = None,
        mem_limit_bytes: int | None = None,
        stats_url: str | None = None,
    ) -> None:
        self._service = service
        self._host = host
        self._process = psutil.Process(pid) if pid else None
        self._cores = cores or float(psutil.cpu_count() or 1)
        self._mem_limit = mem_limit_bytes or psutil.virtual_memory().total
        self._stats_url = stats_url
        self._last = (time.monotonic(), self._busy_s())

    def sample(self) -> dict[str, Any]:
        """One host sample; `cpu_util` is since the last one.

        Raises:
            psutil.Error: the process is gone or may not be looked at.
        """
        now, busy_s = time.monotonic(), self._busy_s()
        elapsed, used = now - self._last[0], busy_s - self._last[1]
        self._last = (now, busy_s)
        return {
            "time": time.time_ns() // 1000,
            "service": self._service,
            "host": self._host,
            "cpu_util": min(1.0, max(0.0, used / (elapsed * self._cores))) if elapsed > 0 else 0.0,
            "cores": self._cores,
            "mem_bytes": self._memory(),
            "mem_limit_bytes": self._mem_limit,
            **self._stats(),
        }

    def _busy_s(self) -> float:
        if self._process is None:
            times = psutil.cpu_times()
            return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
        own = self._process.cpu_times()
        return own.user + own.system + own.children_user + own.children_system

    def _memory(self) -> int:
        if self._process is None:
            return psutil.virtual_memory().used
        return self._process.memory_info().rss

    def _stats(self) -> dict[str, int | None]:
        if self._stats_url is None:
            return {"inflight": None, "slots": None}
        try:
            with urllib.request.urlopen(self._stats_url, timeout=_STATS_TIMEOUT_S) as answer:  # noqa: S310
                stats = json.load(answer)
            return {"inflight": int(stats["inflight"]), "slots": int(stats["slots"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {"inflight": None, "slots": None}
