"""The policies a simulation can run, by name, each with the number the kernel knows it by and its source."""

from dataclasses import dataclass

RANDOM = 0
ROUND_ROBIN = 1
LEAST_REQUEST = 2
LEAST_REQUEST_FULL = 3
PEAK_EWMA = 4
ORCA = 5
PREQUAL = 6
C3 = 7
FINGERPOST = 8


@dataclass(frozen=True)
class Policy:
    """A policy: its number in the kernel, and where its rule is written down."""

    number: int
    source: str


POLICIES: dict[str, Policy] = {
    "random": Policy(RANDOM, "uniform over the hosts that are up"),
    "round_robin": Policy(ROUND_ROBIN, "each picker in turn over its hosts, from a random start"),
    "least_request": Policy(LEAST_REQUEST, "Envoy least_request, N_CHOICES of 2; weighted where slots differ"),
    "least_request_full": Policy(LEAST_REQUEST_FULL, "Envoy least_request, FULL_SCAN; ties at random"),
    "peak_ewma": Policy(PEAK_EWMA, "Twitter Finagle, p2cPeakEwma with its default decay of 10 s"),
    "orca": Policy(ORCA, "gRPC proposal A58, weighted_round_robin with its default settings"),
    "prequal": Policy(PREQUAL, "Wydrowski et al., NSDI 2024, with the paper's parameters"),
    "c3": Policy(C3, "Suresh et al., NSDI 2015, replica ranking; without rate control"),
    "fingerpost": Policy(FINGERPOST, "routing/cost.py and routing/guard.py"),
}

PEERS = tuple(name for name in POLICIES if name != "fingerpost")
