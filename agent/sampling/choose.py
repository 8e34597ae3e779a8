"""Chooses the sampler of a host."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fingerpost.agent.sampling.base import Sampler, SamplingError, Subject
from fingerpost.agent.sampling.cgroup import Cgroup, CgroupSampler, CgroupV1, Limits, find_cgroup, machine_limits
from fingerpost.agent.sampling.find import Finder, by_command, by_pid, by_pid_file, by_unit
from fingerpost.agent.sampling.process import ProcessSampler

SAMPLERS = ("auto", "process", "cgroup", "prometheus")


@dataclass(frozen=True)
class SamplerOptions:
    """How a host is to be measured.

    Args:
        sampler: one of `SAMPLERS`.
        find: finds the service's processes; None: the machine, or the cgroup that we are in.
        cgroup: a cgroup, as its folder or its name; None: that of the process.
        prometheus_url: the text exposition of node_exporter or cAdvisor.
        prometheus_labels: labels that pick one container of it; empty: the machine.
        proc: where the kernel tells of processes and mounts.
    """

    sampler: str = "auto"
    find: Finder | None = None
    cgroup: Path | None = None
    prometheus_url: str | None = None
    prometheus_labels: Mapping[str, str] = field(default_factory=dict)
    proc: Path = Path("/proc")


def make_sampler(subject: Subject, options: SamplerOptions) -> Sampler:
    """The sampler for a host.

    `auto` is Prometheus if a URL is given, a cgroup if one is given, and else: with processes, these within the limits
    of their cgroup (others may share it); without, our own cgroup if its limits are tighter than the
    machine, else the machine.

    Raises:
        SamplingError: an unknown sampler, an option it needs is missing, or there is nothing it could measure.
    """
    if options.sampler not in SAMPLERS:
        raise SamplingError(f"unknown sampler {options.sampler!r}: use {', '.join(SAMPLERS)}")
    if options.sampler == "prometheus" or (options.sampler == "auto" and options.prometheus_url):
        if not options.prometheus_url:
            raise SamplingError("the prometheus sampler needs the URL of an exposition")
        from fingerpost.agent.sampling.prometheus import PrometheusSampler

        return PrometheusSampler(subject, options.prometheus_url, options.prometheus_labels)
    if options.sampler == "cgroup" or (options.sampler == "auto" and options.cgroup):
        pid = options.find()[0] if options.find and not options.cgroup else None
        return CgroupSampler(subject, find_cgroup(pid, options.cgroup, options.proc), options.proc)
    if options.sampler == "process":
        return ProcessSampler(subject, options.find, proc=options.proc)
    return _auto(subject, options)


def finder(pid: int | None, pid_file: Path | None, unit: str | None, match: str | None) -> Finder | None:
    """How the service's processes are found, by the one of these that is given; None: none is.

    Raises:
        SamplingError: it cannot be used: no such process, no regular expression.
    """
    if pid is not None:
        return by_pid(pid)
    if pid_file is not None:
        return by_pid_file(pid_file)
    if unit is not None:
        return by_unit(unit)
    return by_command(match) if match is not None else None


def _auto(subject: Subject, options: SamplerOptions) -> Sampler:
    if options.find:
        return ProcessSampler(subject, options.find, lambda given, pid: _within(given, pid, options.proc), options.proc)
    try:
        cgroup = find_cgroup(None, None, options.proc)
        if _tighter(cgroup) != Limits():
            return CgroupSampler(subject, cgroup, options.proc)
    except SamplingError:
        pass
    return ProcessSampler(subject, proc=options.proc)


def _within(subject: Subject, pid: int, proc: Path) -> Subject:
    """The subject with a process's cgroup's limits, where they are tighter than the machine and it leaves them open."""
    try:
        limits = _tighter(find_cgroup(pid, None, proc))
    except SamplingError:
        return subject
    return replace(
        subject,
        cores=subject.cores or limits.cores,
        mem_limit_bytes=subject.mem_limit_bytes or limits.mem_bytes,
    )


def _tighter(cgroup: Cgroup | CgroupV1) -> Limits:
    """The limits of a cgroup that are tighter than the machine."""
    limits, (cores, mem_bytes) = cgroup.limits(), machine_limits()
    return Limits(
        limits.cores if limits.cores and limits.cores < cores else None,
        limits.mem_bytes if limits.mem_bytes and limits.mem_bytes < mem_bytes else None,
    )
