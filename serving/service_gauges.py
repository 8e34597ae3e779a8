"""What the metrics say of each service that is asked for."""

import logging
from typing import Any

logger = logging.getLogger(__name__)
# A name that workers have shared cannot be taken back: services that come and go for months must not pile up.
MAX_NAMES = 1000


class ServiceGauges:
    """Gauges by service: hosts, ages of table and predictions, trouble with an experiment.

    The first `MAX_NAMES` services of a worker's life are told of; their gauges are 0 once nobody asks for them. That
    there are further ones is told in the log.

    Args:
        space: what the gauges' names begin with.
    """

    def __init__(self, space: str) -> None:
        from prometheus_client import Gauge

        def gauge(name: str, text: str) -> Any:
            return Gauge(name, text, ("service",), namespace=space, multiprocess_mode="livemax")

        self._gauges = {
            "hosts": gauge("hosts", "Live hosts, of services asked for lately"),
            "table_age_s": gauge("table_age_seconds", "Since the table was last known to be right"),
            "prediction_age_s": gauge("prediction_age_seconds", "Since the latest fingerprint in the table"),
            "experiment_problem": gauge(
                "experiment_problem", "1 while an experiment should run but an arm's table cannot be served"
            ),
        }
        self._names: set[str] = set()
        self._warned = False

    def tell(self, service: str, **values: float) -> None:
        """Sets some of `hosts`, `table_age_s`, `prediction_age_s`, `experiment_problem`."""
        if service not in self._names and len(self._names) >= MAX_NAMES:
            if not self._warned:
                logger.warning("metrics tell of %d services already, and not of %r", MAX_NAMES, service)
                self._warned = True
            return
        self._names.add(service)
        for name, value in values.items():
            self._gauges[name].labels(service).set(value)

    def forget(self, service: str) -> None:
        """Says nothing any more of a service that has no tables: all are 0."""
        if service in self._names:
            self.tell(service, **dict.fromkeys(self._gauges, 0.0))
