"""Which sampler a host gets."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fleet.sampling.base import Sampler, SamplingError, Subject
from fleet.sampling.cgroup import Cgroup, CgroupSampler, Limits, find_cgroup, machine_limits
from fleet.sampling.process import ProcessSampler

SAMPLERS = ("auto", "process", "cgroup", "prometheus")


@dataclass(frozen=True)
class SamplerOptions:
    """How a host is to be measured.

    Args:
        sampler: one of `SAMPLERS`.
        pid: the service's process; None: the machine, or the cgroup that we are in.
        cgroup: a cgroup, as its folder or its name; None: that of the process.
        prometheus_url: the text exposition of node_exporter or cAdvisor.
        prometheus_labels: labels that pick one container of it; empty: the machine.
        proc: where the kernel tells of processes and mounts.
    """

    sampler: str = "auto"
    pid: int | None = None
    cgroup: Path | None = None
    prometheus_url: str | None = None
    prometheus_labels: Mapping[str, str] = field(default_factory=dict)
    proc: Path = Path("/proc")


def make_sampler(subject: Subject, options: SamplerOptions) -> Sampler:
    """The sampler for a host.

    `auto` is Prometheus if a URL is given, a cgroup if one is given, and else: with a process, that process within the
    limits of its cgroup (others may share the cgroup); without one, our own cgroup if its limits are tighter than the
    machine, else the machine.

    Raises:
        SamplingError: an unknown sampler, an option it needs is missing, or there is nothing it could measure.
    """
    if options.sampler not in SAMPLERS:
        raise SamplingError(f"unknown sampler {options.sampler!r}: use {', '.join(SAMPLERS)}")
    if options.sampler == "prometheus" or (options.sampler == "auto" and options.prometheus_url):
        if not options.prometheus_url:
            raise SamplingError("the prometheus sampler needs the URL of an exposition")
        from fleet.sampling.prometheus import PrometheusSampler

        return PrometheusSampler(subject, options.prometheus_url, options.prometheus_labels)
    if options.sampler == "cgroup" or (options.sampler == "auto" and options.cgroup):
        return CgroupSampler(subject, find_cgroup(options.pid, options.cgroup, options.proc))
    if options.sampler == "process":
        return ProcessSampler(subject, options.pid)
    return _auto(subject, options)


def _auto(subject: Subject, options: SamplerOptions) -> Sampler:
    try:
        cgroup = find_cgroup(options.pid, None, options.proc)
    except SamplingError:
        return ProcessSampler(subject, options.pid)
    tighter = _tighter(cgroup)
    if options.pid:
        within = replace(
            subject,
            cores=subject.cores or tighter.cores,
            mem_limit_bytes=subject.mem_limit_bytes or tighter.mem_bytes,
        )
        return ProcessSampler(within, options.pid)
    if tighter == Limits():
        return ProcessSampler(subject)
    try:
        return CgroupSampler(subject, cgroup)
    except SamplingError:
        return ProcessSampler(subject)


def _tighter(cgroup: Cgroup) -> Limits:
    """The limits of a cgroup that are tighter than the machine."""
    limits, (cores, mem_bytes) = cgroup.limits(), machine_limits()
    return Limits(
        limits.cores if limits.cores and limits.cores < cores else None,
        limits.mem_bytes if limits.mem_bytes and limits.mem_bytes < mem_bytes else None,
    )
