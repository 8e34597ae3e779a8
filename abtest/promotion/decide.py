"""The decision: a pure function of policy and evidence, so that every record can be decided again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal

from fingerpost.abtest.promotion.policy import ComparisonGate, OfflineGate, Policy, StateGate
from fingerpost.abtest.promotion.readings import (
    BAD,
    GOOD,
    SAME,
    State,
    read_comparison,
    read_data,
    read_drift,
    read_offline,
    read_time,
)

Outcome = Literal["promote", "wait", "reject"]
Status = Literal["pass", "fail", "wait", "off"]
COMPARISONS = ("shadow", "offpolicy", "experiment")


@dataclass(frozen=True)
class Gate:
    """What one gate says.

    Args:
        status: pass; fail: the challenger is rejected; wait: not now; off: it does not count.
    """

    name: str
    status: Status
    reason: str


@dataclass(frozen=True)
class Decision:
    """What is to be done with the challenger, and what every gate says."""

    outcome: Outcome
    gates: tuple[Gate, ...]

    @property
    def reason(self) -> str:
        """Why, in one line: the gates that decided it."""
        status = {"promote": "pass", "wait": "wait", "reject": "fail"}[self.outcome]
        return "; ".join(f"{gate.name}: {gate.reason}" for gate in self.gates if gate.status == status)

    def to_json(self) -> dict[str, Any]:
        return {"outcome": self.outcome, "reason": self.reason, "gates": [asdict(gate) for gate in self.gates]}


def decide(policy: Policy, evidence: Mapping[str, Any]) -> Decision:
    """Decides on a challenger.

    Args:
        evidence: a JSON document: `champion` and `challenger` (versions), `as_of` (when it was gathered), `hold` (a
            manual hold, a watch that is on, or null), `offline` (metrics and params of the training run), and of
            `shadow`, `offpolicy`, `experiment` and `drift` each null or `{"at": when, "result": {...}}`.
    """
    gates = [
        _offline(policy.offline, evidence.get("offline")),
        *(_comparison(name, getattr(policy, name), evidence) for name in COMPARISONS),
        _state("drift", policy.drift, evidence, read_drift),
        _state("data", policy.data, evidence, read_data),
        _hold(policy, evidence),
    ]
    failed = any(gate.status == "fail" for gate in gates)
    waits = any(gate.status == "wait" for gate in gates)
    return Decision("reject" if failed else "wait" if waits else "promote", tuple(gates))


def _offline(gate: OfflineGate, found: Any) -> Gate:
    if gate.use == "off":
        return Gate("offline", "off", "not asked for")
    read = read_offline(found) if isinstance(found, Mapping) else None
    if read is None or not read.skill:
        return _absent("offline", gate.use, "no skill is known of it")
    if read.rows < gate.min_rows:
        return _absent("offline", gate.use, f"tested on {read.rows} rows, {gate.min_rows} are needed")
    mean = sum(read.skill.values()) / len(read.skill)
    worst = min(read.skill, key=lambda target: read.skill[target])
    if mean <= gate.min_mean_skill:
        return Gate("offline", "fail", f"mean skill {mean:+.3f}, must be above {gate.min_mean_skill:+.3f}")
    if read.skill[worst] < gate.min_skill:
        return Gate("offline", "fail", f"skill of {worst} {read.skill[worst]:+.3f}, least {gate.min_skill:+.3f}")
    return Gate("offline", "pass", f"mean skill {mean:+.3f} on {read.rows} rows")


def _comparison(name: str, gate: ComparisonGate, evidence: Mapping[str, Any]) -> Gate:
    if gate.use == "off":
        return Gate(name, "off", "not asked for")
    result, problem = _result(name, gate.max_age_h, evidence)
    if result is None:
        return _absent(name, gate.use, problem)
    read = read_comparison(result)
    for role, told in (("champion", read.champion), ("challenger", read.challenger)):
        if told is not None and told != str(evidence.get(role)):
            return _absent(name, gate.use, f"it is of {role} {told}, not {evidence.get(role)}")
    # Harm counts however little it rests on: the comparison itself says when it is sure.
    if read.verdict in BAD:
        return Gate(name, "fail", f"{read.verdict}, {read.samples} samples")
    if read.verdict not in (GOOD, SAME):
        why = f" ({read.reason[:300]})" if read.reason else ""
        return _absent(name, gate.use, f"{read.verdict[:80]}, {read.samples} samples{why}")
    if read.samples < gate.min_samples:
        return _absent(name, gate.use, f"{read.verdict}, but {read.samples} of {gate.min_samples} samples")
    if read.verdict not in gate.accept:
        return Gate(name, "fail", f"{read.verdict}, must be {' or '.join(gate.accept)}; {read.samples} samples")
    return Gate(name, "pass", f"{read.verdict}, {read.samples} samples")


def _state(name: str, gate: StateGate, evidence: Mapping[str, Any], read: Any) -> Gate:
    if gate.use == "off":
        return Gate(name, "off", "not asked for")
    result, problem = _result("drift", gate.max_age_h, evidence)
    if result is None:
        return _absent(name, gate.use, problem)
    found: State = read(result)
    if found.version is not None and found.version != str(evidence.get("challenger")):
        return _absent(name, gate.use, f"it is of version {found.version}, not {evidence.get('challenger')}")
    if found.good is None:
        return _absent(name, gate.use, found.why or "it cannot be told yet")
    if not found.good:
        return Gate(name, "wait", found.why or "it does not hold")
    return Gate(name, "pass", "no drift since it was trained" if name == "drift" else "data tests passed")


def _hold(policy: Policy, evidence: Mapping[str, Any]) -> Gate:
    moment, hold = read_time(evidence.get("as_of")), evidence.get("hold")
    if isinstance(hold, Mapping):
        until = read_time(hold.get("until"))
        if until is None or moment is None or moment < until:
            return Gate("hold", "wait", str(hold.get("reason") or "promotion is on hold"))
    if moment is None:
        return Gate("hold", "wait", "the evidence does not say when it was gathered")
    frozen = policy.freeze.reason(moment)
    return Gate("hold", "wait", frozen) if frozen else Gate("hold", "pass", "no hold")


def _result(name: str, max_age_h: float, evidence: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str]:
    """The result of a kind, or None and why there is none."""
    found = evidence.get(name)
    if not isinstance(found, Mapping) or not isinstance(found.get("result"), Mapping):
        return None, "no result yet"
    at, moment = read_time(found.get("at")), read_time(evidence.get("as_of"))
    if at is None or moment is None:
        return None, "its result has no time"
    if moment - at > timedelta(hours=max_age_h):
        return None, f"its result is older than {max_age_h:g} h"
    return found["result"], ""


def _absent(name: str, use: str, why: str) -> Gate:
    return Gate(name, "wait" if use == "required" else "off", why)
