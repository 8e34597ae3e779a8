"""Host samples from a Prometheus endpoint: a machine as node_exporter tells of it, a container as cAdvisor does."""

import http.client
import math
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fingerpost.agent.sampling.base import CpuMeter, NotYetError, SamplingError, Subject
from fingerpost.agent.sampling.exposition import CONTAINER_NAMES, NODE_NAMES, Counters, Reading, parse_exposition
from fingerpost.agent.sampling.signs import SignMeter

_MAX_BODY_BYTES = 32 * 2**20
_MAX_LINE_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
# Lines of the names that are looked for: hundreds of cores, or thousands of containers. A parsed one takes a kilobyte.
_MAX_LINES = 50_000
# cAdvisor measures every 10 to 60 s and says when; what is older than this is no measurement of now.
_MAX_STALE_S = 120.0
# An endpoint's clock that moved this much more or less than ours was set, and did not measure.
_CLOCK_TOLERANCE_S = 60.0


class PrometheusSampler:
    """Measures what an endpoint tells of.

    An endpoint that is away at the beginning is no error; each sample before there are two readings is.

    Args:
        subject: what of cores and memory limit it leaves open is what the endpoint tells.
        url: the text exposition, http or https.
        labels: labels that pick one container, such as `{"container": "shop"}`; empty: the machine.
        timeout_s: for one whole fetch.

    Raises:
        SamplingError: the URL is not http or https.
    """

    def __init__(self, subject: Subject, url: str, labels: Mapping[str, str] | None = None, timeout_s: float = 2.0):
        if not url.startswith(("http://", "https://")):
            raise SamplingError(f"{url!r} is not an http or https URL")
        self._subject = subject
        self._url = url
        self._labels = dict(labels or {})
        self._timeout_s = timeout_s
        self._meter, self._counters = CpuMeter(restarts=False), Counters()
        self._cpu_util: float | None = None
        self._signs, self._shares = SignMeter(), dict[str, float | None]()
        # Our clock and the endpoint's at the newest reading, and the sum of time between readings.
        self._seen: tuple[float, float | None] | None = None
        self._measured_for_s = 0.0

    def sample(self) -> dict[str, Any]:
        """One host sample; raises SamplingError: no answer or nonsense; NotYetError: a first reading."""
        reading = parse_exposition(fetch_lines(self._url, self._names(), self._timeout_s), self._labels)
        cores = self._subject.cores or reading.cores
        mem_limit = self._subject.mem_limit_bytes or reading.mem_limit_bytes
        if not cores or not mem_limit:
            what = "cores" if not cores else "memory limit"
            raise SamplingError(f"{self._url} tells no {what} for {self._labels or 'the machine'}: give it")
        before_s = self._measured_for_s
        if self._is_new(reading, time.monotonic()):
            used_s = self._counters.add(reading.series, (self._measured_for_s - before_s) * cores)
            self._cpu_util = self._meter.utilisation(self._measured_for_s, used_s, cores)
            passed = (
                replace(each, whole=self._measured_for_s) if math.isnan(each.whole) else each for each in reading.counts
            )
            self._shares = self._signs.shares(passed)
        if self._cpu_util is None:
            raise NotYetError(f"the first reading of {self._url}: there is nothing to compare it with yet")
        return {**self._subject.row(self._cpu_util, cores, reading.mem_bytes, mem_limit), **self._shares}

    def busy_s(self) -> None:
        """Not told between samples: an exposition is dear to ask for."""

    def _names(self) -> tuple[str, ...]:
        return CONTAINER_NAMES if self._labels else NODE_NAMES

    def _is_new(self, reading: Reading, now_s: float) -> bool:
        """Whether it was measured after the last; if so, advances the time that the CPU counter was measured for."""
        if self._seen is None:
            self._seen = (now_s, reading.measured_s)
            return True
        ours = now_s - self._seen[0]
        theirs = None
        if reading.measured_s is not None and self._seen[1] is not None:
            theirs = reading.measured_s - self._seen[1]
        if theirs == 0:
            if ours > _MAX_STALE_S:
                raise SamplingError(f"{self._url} has measured nothing for {ours:.0f} s")
            return False
        jumped = theirs is None or theirs < 0 or abs(theirs - ours) > _CLOCK_TOLERANCE_S
        self._measured_for_s += ours if theirs is None or jumped else theirs
        self._seen = (now_s, reading.measured_s)
        return True


def fetch_lines(url: str, names: tuple[str, ...], timeout_s: float) -> list[str]:
    """The lines of an exposition that begin with one of the names; the others, most of them, are not kept.

    Raises:
        SamplingError: no answer in time, an HTTP error, or more than 32 MiB.
    """
    wanted = tuple(name.encode() for name in names)
    found: list[str] = []
    try:
        for line in _lines(url, timeout_s):
            if line.startswith(wanted):
                found.append(line.decode("utf-8", "replace"))
                if len(found) > _MAX_LINES:
                    raise SamplingError(f"{url} answers with more than {_MAX_LINES} lines of {', '.join(names)}")
        return found
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SamplingError(f"cannot fetch {url}: {error}") from error


def _lines(url: str, timeout_s: float) -> Iterator[bytes]:
    deadline, size, rest = time.monotonic() + timeout_s, 0, b""
    request = urllib.request.Request(url, headers={"Accept": "text/plain;version=0.0.4"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
        while chunk := answer.read1(_CHUNK_BYTES):
            size += len(chunk)
            if size > _MAX_BODY_BYTES:
                raise SamplingError(f"{url} answers with more than {_MAX_BODY_BYTES} bytes")
            if time.monotonic() > deadline:
                raise SamplingError(f"{url} did not answer in {timeout_s} s")
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > _MAX_LINE_BYTES:
                raise SamplingError(f"{url} answers with a line of more than {_MAX_LINE_BYTES} bytes")
    yield rest
