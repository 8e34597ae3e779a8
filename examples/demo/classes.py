"""The demo's host classes: how many times the work of each kind costs on a host of that class."""

from dataclasses import dataclass


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
class DemoHost:
    """One host of the demo fleet."""

    name: str
    host_class: str
    port: int


def demo_hosts(count: int, port_base: int) -> list[DemoHost]:
    """`count` hosts, the classes in turn, on ports from `port_base` on."""
    classes = list(HOST_CLASSES)
    return [
        DemoHost(
            f"{classes[index % len(classes)]}-{index // len(classes) + 1}",
            classes[index % len(classes)],
            port_base + index,
        )
        for index in range(count)
    ]
