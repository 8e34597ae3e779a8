"""The demo's hosts: how many times the work of each kind costs on a host of a class, and the job of one host."""

from dataclasses import dataclass

from fingerpost.arrays import Floats

# What slows a host down makes its work this many times longer at the most.
MAX_TIMES = 100.0


@dataclass(frozen=True)
class HostClass:
    """A class of hosts.

    Args:
        multipliers: kind of work to how many times it is done; kinds not named are done once.
        slots: requests it serves at once.
    """

    name: str
    multipliers: dict[str, float]
    slots: int = 4

    def multiplier(self, kind: str) -> float:
        return self.multipliers.get(kind, 1.0)


HOST_CLASSES: dict[str, HostClass] = {
    "compute": HostClass("compute", {"hash": 0.4, "compress": 0.5, "query": 2.0, "files": 2.5}),
    "storage": HostClass("storage", {"files": 0.4, "query": 0.5, "hash": 2.0, "render": 1.8}),
    "general": HostClass("general", {"render": 0.5, "sort": 0.5, "compress": 2.2}),
}


@dataclass(frozen=True)
class Job:
    """A job that slows a host down at regular times.

    Args:
        every_s: its period, seconds.
        for_s: how long it takes, seconds, less than the period.
        times: how many times longer a request then takes; by default more than what a host is better at its best kind.
        after_s: it begins so long after each multiple of the period, seconds since 1970. By default it is two thirds
            of a window of the demo: a prediction of a window is in force two seconds after the window has begun.
    """

    every_s: float = 30.0
    for_s: float = 6.0
    times: float = 12.0
    after_s: float = 2.0

    def __post_init__(self) -> None:
        if not (0 < self.for_s < self.every_s and 1 <= self.times <= MAX_TIMES):
            raise ValueError(f"{self}: for_s must be above 0 and below every_s, times from 1 to {MAX_TIMES:g}")

    def runs(self, at_s: float) -> bool:
        """Whether it runs at a time, seconds since 1970."""
        return (at_s - self.after_s) % self.every_s < self.for_s

    def since(self, at_s: Floats) -> Floats:
        """Seconds since its nearest beginning, which may be the next one: from minus to plus half a period."""
        return (at_s - self.after_s + self.every_s / 2) % self.every_s - self.every_s / 2


# The host that has the job, by its place in the fleet: every fleet has one, and the change is not at its class.
_JOB_AT = 1


@dataclass(frozen=True)
class DemoHost:
    """One host of the demo fleet; `job` slows it down at regular times."""

    name: str
    host_class: str
    port: int
    job: Job | None = None


def demo_hosts(count: int, port_base: int) -> list[DemoHost]:
    """`count` hosts, the classes in turn, on ports from `port_base` on."""
    classes = list(HOST_CLASSES)
    return [
        DemoHost(
            f"{classes[index % len(classes)]}-{index // len(classes) + 1}",
            classes[index % len(classes)],
            port_base + index,
            Job() if index == _JOB_AT else None,
        )
        for index in range(count)
    ]
