"""Describes metrics once: for the collectors that give them, and for docs/metrics.md."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fingerpost import __version__

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True)
class Family:
    """A metric of one part.

    Args:
        name: as Prometheus' text format has it; of counters without `_total`.
        text: what it counts or measures, with the unit where the name has none.
    """

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    labels: tuple[str, ...] = ()

    def of(self, samples: Iterable[Sample]) -> "CounterMetricFamily | GaugeMetricFamily":
        """The metric with samples: values of the labels, in order, and the value."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        made = (CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily)(
            self.name, self.text, labels=self.labels
        )
        for labels, value in samples:
            made.add_metric(labels, value)
        return made


BUILD_INFO = Family("fingerpost_build_info", "gauge", "1; which version of the program a part is.", ("part", "version"))


def build_info(part: str) -> "CounterMetricFamily | GaugeMetricFamily":
    """The version that a part is."""
    return BUILD_INFO.of([((part, __version__), 1.0)])
