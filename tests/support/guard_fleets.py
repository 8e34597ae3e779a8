"""Simulated fleets with the guard: absurd predictions beside least request and true predictions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fingerpost.simulator.run import Bench, Figures
from fingerpost.simulator.scenario import Scenario

PEER = "least_request_full"
# The fleet has no time to get used to anything: the guard meets it at its own load after a quarter of a minute.
_WARMUP_S, _DURATION_S = 15.0, 30.0
_SHUFFLED = "shuffled"


@dataclass(frozen=True)
class Judged:
    """One kind of predictions in one fleet at one load.

    Attributes:
        predictions: `true`, `N absurd` (ten times too fast at so many hosts, true at the others) or `shuffled`.
        p99_s, mean_s: with these predictions and the guard; `peer_p99_s`, `peer_mean_s`: of least request;
            `true_mean_s`: with true predictions and no guard.
        trust: mean exponent.
        overloaded, peer_overloaded: the run was given up, its requests piled up.
    """

    scenario: str
    load: float
    seed: int
    predictions: str
    p99_s: float
    mean_s: float
    trust: float
    overloaded: bool
    peer_p99_s: float
    peer_mean_s: float
    peer_overloaded: bool
    true_mean_s: float

    @property
    def p99_ratio(self) -> float:
        """p99 over least request's."""
        return self.p99_s / self.peer_p99_s

    @property
    def gain_kept(self) -> float:
        """The part that is left of what true predictions take off the mean."""
        gain = self.peer_mean_s - self.true_mean_s
        return (self.peer_mean_s - self.mean_s) / gain if gain > 0 else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "p99_ratio": self.p99_ratio, "gain_kept": self.gain_kept}


def judge(
    name: str, scenario: Scenario, load: float, absurd: Sequence[int], seed: int, hosts_tell: bool, pickers: int
) -> list[Judged]:
    """One fleet at one load with every kind of predictions."""

    def run(policy: str, predictions: dict[str, Any], **picker: Any) -> Figures:
        changes = {
            "warmup_s": _WARMUP_S,
            "duration_s": _DURATION_S,
            "predictions": {**scenario.predictions.model_dump(), **predictions},
            "telemetry": {**scenario.telemetry.model_dump(), "hosts_tell": hosts_tell},
            "picker": {**scenario.picker.model_dump(), **picker},
        }
        return Bench(Scenario.model_validate({**scenario.model_dump(), **changes}), seed).run(policy, load, pickers)

    peer = run(PEER, {})
    true = run("fingerpost", {"kind": "oracle"}, guard=False)
    kinds = {
        ("true" if not count else f"{count} absurd"): {"kind": "absurd_hosts", "absurd_hosts": count}
        if count
        else {"kind": "oracle"}
        for count in absurd
    }
    found = []
    for kind, predictions in {**kinds, _SHUFFLED: {"kind": _SHUFFLED}}.items():
        ours = run("fingerpost", predictions)
        found.append(
            Judged(
                *(name, load, seed, kind),
                *(ours.p99_s, ours.mean_s, ours.trust, ours.overloaded),
                *(peer.p99_s, peer.mean_s, peer.overloaded),
                true.mean_s,
            )
        )
    return found
