"""Runs a platform under load, strikes it with one fault after another, and gives the verdict."""

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.clock import Clock
from benchmarks.chaos.faults import Fault, Struck, all_faults, small_disk
from benchmarks.chaos.judge import judge_records, judge_registry, unexcused
from benchmarks.chaos.load import Clients, Told
from benchmarks.chaos.platform import FRONT, REST, Platform
from fingerpost.errors import FingerpostError
from fingerpost.features.ingest import ingest

_WELL_S, _CALM_S, _DISK_MB = 180.0, 20.0, 512
_PIPELINE_S, _PATIENCE_S = 600.0, 300.0


@dataclass(frozen=True)
class Options:
    """What is run.

    Args:
        minutes: faults strike for so long; what begins before the end is finished.
        only: parts of names of faults; empty: all.
        train: whether flows and pipelines run, and the registry is judged.
    """

    minutes: float = 5.0
    seed: int = 1
    rate_rps: float = 15.0
    hosts: int = 3
    only: Sequence[str] = ()
    train: bool = True


@dataclass
class Verdict:
    """Of one strike: what failed beside what was in flight on what was killed, and when all was well again."""

    fault: str
    well_again_s: float | None
    excused: int
    failed: list[str]
    complaint: str = ""
    killed: list[float] = field(default_factory=list, repr=False)

    @property
    def holds(self) -> bool:
        return self.well_again_s is not None and not self.failed and not self.complaint

    def to_json(self) -> dict[str, Any]:
        fields = {name: value for name, value in vars(self).items() if name != "killed"}
        return {**fields, "failed": len(self.failed), "why_failed": sorted(set(self.failed))[:3], "holds": self.holds}


def measure_chaos(options: Options, tell: Callable[[str], None]) -> dict[str, Any]:
    """The whole story; in namespaces of its own, where mounts and ports are ours alone.

    Raises:
        FingerpostError: the platform does not even start.
    """
    rng = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="fingerpost-chaos-"))
    clock = Clock(folder)
    with ExitStack() as held:
        held.enter_context(small_disk(folder / "home", _DISK_MB))
        tell(f"starting the platform in {folder} ...")
        platform = held.enter_context(Platform(folder, options.hosts, clock.environment, options.train))
        clients = Clients(platform.url, options.rate_rps, options.seed)
        clients.start()
        platform.wait_for(lambda: not platform.problems(), _WELL_S, "all is well")
        tell(f"all is well, at {options.rate_rps:g} requests a second")
        time.sleep(_CALM_S)
        faults = [each for each in all_faults(platform, clock) if _chosen(each, options)]
        verdicts = []
        began = time.monotonic()
        for fault in _drawn([each for each in faults if not each.why_not], rng):
            if time.monotonic() - began > 60 * options.minutes:
                break
            verdicts.append(_strike(fault, platform, clients.told, rng))
            tell(_words(verdicts[-1]))
        struck_s = time.monotonic() - began
        time.sleep(_CALM_S / 2)
        clients.stop()
        complaints = _settle(platform, options.train)
        home_settings = platform.settings
        platform.end(*platform.agents, *_other(platform))
        # What waits because its time, or its host, is not known yet has come by then.
        later_s = time.time() + _PATIENCE_S
        ingest(home_settings.lake, home_settings.service, home_settings.clock_skew_s, 30 * 86_400, later_s)
        records = judge_records(home_settings, clients.told)
        registry = judge_registry(home_settings) if options.train else []
        failed = unexcused(clients.told, [when for each in verdicts for when in each.killed])
        told = clients.told
        holds = (
            bool(verdicts)
            and all(each.holds for each in verdicts)
            and not (failed or records.lost or records.doubled or registry or complaints)
        )
        verdict = {
            "holds": holds,
            "seed": options.seed,
            "minutes": round(struck_s / 60, 1),
            "requests": told.sent,
            "answered": len(told.answered),
            "failed": len(failed),
            "failed_in_flight": len(told.failures) - len(failed),
            "why_failed": sorted(set(failed))[:5],
            "longest_without_proxy_s": round(told.longest_refused_s, 2),
            "records": records.to_json(),
            "registry": registry,
            "complaints": complaints,
            "skipped": {each.name: each.why_not for each in faults if each.why_not},
            "faults": [each.to_json() for each in verdicts],
        }
    if holds:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        tell(f"logs are in {folder}")
    return verdict


def _chosen(fault: Fault, options: Options) -> bool:
    if fault.name == "kill a pipeline's run" and not options.train:
        return False
    return not options.only or any(part in fault.name for part in options.only)


def _drawn(faults: Sequence[Fault], rng: random.Random) -> Iterator[Fault]:
    """Faults for ever: each comes once before any comes again, in another order each time."""
    while faults:
        yield from rng.sample(faults, len(faults))


def _strike(fault: Fault, platform: Platform, told: Told, rng: random.Random) -> Verdict:
    before, began = len(told.failures), time.monotonic()
    try:
        struck = fault.strike(platform, rng)
    except (FingerpostError, psutil.Error, OSError, subprocess.SubprocessError) as error:
        struck = Struck(complaint=f"{type(error).__name__}: {error}")
    undone = time.monotonic()
    problems: list[str] = ["not asked yet"]
    while problems and time.monotonic() - undone < _WELL_S:
        time.sleep(1.0)
        platform.revive()
        problems = platform.problems()
    if problems:
        struck.complaint += f" not well after {_WELL_S:g} s: {'; '.join(problems)[:500]}"
    well = None if problems else round(time.monotonic() - undone, 1)
    # A client may wait for an answer that it does not get.
    since = [each for each in told.failures[before:] if each.ended >= began]
    failed = unexcused(Told(failures=since), struck.killed)
    return Verdict(fault.name, well, len(since) - len(failed), failed, struck.complaint.strip(), struck.killed)


def _settle(platform: Platform, train: bool) -> list[str]:
    """Has all that is measured told; a last pipeline ends well whatever was killed before. Returns what was wrong."""
    if not train:
        time.sleep(2 * platform.settings.window_s)
        return []
    done = platform.run("run", "pipeline", timeout_s=_PIPELINE_S)
    return [] if done.returncode == 0 else [f"the last pipeline ended with {done.returncode}: {done.stderr[-800:]}"]


def _other(platform: Platform) -> list[str]:
    return [REST, FRONT, *platform.hosts]


def _words(verdict: Verdict) -> str:
    well = "never well again" if verdict.well_again_s is None else f"well again after {verdict.well_again_s:5.1f} s"
    failed = f"{len(verdict.failed)} failed ({verdict.excused} in flight on what was killed)"
    mark = "ok  " if verdict.holds else "FAIL"
    return f"{mark} {verdict.fault:26} {well}, {failed} {verdict.complaint} {sorted(set(verdict.failed))[:2] or ''}"
