"""The decision: a pure function of policy and evidence, so that every record can be decided again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

from fingerpost.abtest.promotion.policy import (
    ApprovalGate,
    ComparisonGate,
    ExperimentGate,
    OfflineGate,
    Policy,
    StateGate,
)
from fingerpost.abtest.results import (
    BETTER,
    GUARDRAIL,
    NO_DIFFERENCE,
    NOT_WORSE,
    WORSE,
    ComparisonResult,
    DriftResult,
    read_time,
)
from fingerpost.errors import FingerpostError
from fingerpost.experiment import ALIASES
from fingerpost.training.runs import Document, HeldOutSkill

Outcome = Literal["promote", "wait", "reject"]
Status = Literal["pass", "fail", "wait", "off"]
Found = TypeVar("Found", bound=Document)
COMPARISONS = ("shadow", "offpolicy", "experiment")
# What evidence is gathered as. Of records of the format before, no difference rejects where it is not accepted.
FORMAT = 2


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
        evidence: a JSON document: `format`, `champion` and `challenger` (versions), `as_of` (when it was
            gathered), `hold`
            (a manual hold, a watch that is on, or null), `offline` (metrics and params of the training run), and of
            `shadow`, `offpolicy`, `experiment` and `drift` each null or `{"at": when, "result": {...}}`; where
            the policy asks for them `approval` and `veto`, see `outside`.
    """
    gates = [
        offline_gate(policy.offline, evidence.get("offline")),
        *(_comparison(name, getattr(policy, name), evidence) for name in COMPARISONS),
        _state("drift", policy.drift, evidence),
        _state("data", policy.data, evidence),
        _hold(policy, evidence),
    ]
    # Records of before these were there have no such gates.
    if policy.approval.use == "required":
        gates.append(_approval(policy.approval, evidence))
    if policy.veto.url:
        gates.append(_veto(evidence.get("veto")))
    failed = any(gate.status == "fail" for gate in gates)
    waits = any(gate.status == "wait" for gate in gates)
    return Decision("reject" if failed else "wait" if waits else "promote", tuple(gates))


def offline_gate(gate: OfflineGate, found: Any) -> Gate:
    """What the gate of held-out skill says of a version; `found` as in the evidence."""
    if gate.use == "off":
        return Gate("offline", "off", "not asked for")
    metrics, params = (_object(found, name) for name in ("metrics", "params"))
    try:
        read = HeldOutSkill.of(metrics, params)
    except FingerpostError as error:
        return _absent("offline", gate.use, f"its skill {error}")
    if read.mean is None:
        return _absent("offline", gate.use, "no skill is known of it")
    if read.rows < gate.min_rows:
        return _absent("offline", gate.use, f"tested on {read.rows} rows, {gate.min_rows} are needed")
    worst = min(read.skill, key=lambda target: read.skill[target])
    if read.mean <= gate.min_mean_skill:
        return Gate("offline", "fail", f"mean skill {read.mean:+.3f}, must be above {gate.min_mean_skill:+.3f}")
    if read.skill[worst] < gate.min_skill:
        return Gate("offline", "fail", f"skill of {worst} {read.skill[worst]:+.3f}, least {gate.min_skill:+.3f}")
    # Of versions of earlier trainings nothing was replayed, nor where no category is served by several hosts.
    bound = metrics.get("replay.bound", float("inf")) if metrics.get("replay.groups") else None
    if bound is not None and not (isinstance(bound, int | float) and bound <= gate.max_excess):
        return Gate("offline", "fail", f"not shown to choose better hosts than the baseline: up to {bound:+.1%} worse")
    return Gate("offline", "pass", f"mean skill {read.mean:+.3f} on {read.rows} rows")


def _comparison(name: str, gate: ComparisonGate, evidence: Mapping[str, Any]) -> Gate:
    if gate.use == "off":
        return Gate(name, "off", "not asked for")
    try:
        result = _result(ComparisonResult, name, gate.max_age_h, evidence)
    except FingerpostError as error:
        return _absent(name, gate.use, str(error))
    for role in ALIASES:
        version = getattr(result, role)
        if version is not None and version != str(evidence.get(role)):
            return _absent(name, gate.use, f"it is of {role} {version}, not {evidence.get(role)}")
    found = f"{result.verdict}, {result.samples} samples"
    # Harm counts however little it rests on: the comparison itself says when it is sure.
    if result.verdict in (WORSE, GUARDRAIL):
        return Gate(name, "fail", found)
    if result.verdict not in (BETTER, NOT_WORSE, NO_DIFFERENCE):
        return _absent(name, gate.use, f"{found} ({result.reason[:300]})" if result.reason else found)
    if result.samples < gate.min_samples:
        return _absent(name, gate.use, f"{result.verdict}, but {result.samples} of {gate.min_samples} samples")
    if result.verdict not in gate.accept:
        # Not to have found a difference is no harm: only what was shown rejects.
        status: Status = "fail" if evidence.get("format", 1) == 1 else "wait"
        return Gate(name, status, f"{result.verdict}, must be {' or '.join(gate.accept)}; {result.samples} samples")
    if result.verdict == NOT_WORSE and isinstance(gate, ExperimentGate) and gate.regret != "off":
        why = _regret(gate, evidence)
        if why is not None:
            return Gate(name, "wait", f"{found}, but {why}")
    return Gate(name, "pass", found)


def _regret(gate: ExperimentGate, evidence: Mapping[str, Any]) -> str | None:
    """Why the regret of the challenger's choices does not confirm that it is not worse; None: it does."""
    try:
        result = _result(ComparisonResult, "shadow", gate.max_age_h, evidence)
    except FingerpostError as error:
        return f"of its choices in the shadow {error}" if gate.regret == "required" else None
    if result.regret is None or result.regret.difference.low is None:
        return "the regret of its choices in the shadow is not known" if gate.regret == "required" else None
    rise = result.regret.difference.low
    if rise > gate.max_regret_rise:
        return f"the regret of its choices in the shadow is higher by {rise:.4f} or more"
    return None


def _state(name: str, gate: StateGate, evidence: Mapping[str, Any]) -> Gate:
    if gate.use == "off":
        return Gate(name, "off", "not asked for")
    try:
        result = _result(DriftResult, "drift", gate.max_age_h, evidence)
    except FingerpostError as error:
        return _absent(name, gate.use, str(error))
    if result.model_version is not None and result.model_version != str(evidence.get("challenger")):
        return _absent(name, gate.use, f"it is of version {result.model_version}, not {evidence.get('challenger')}")
    holds, why = result.holds(name)
    if holds is None:
        return _absent(name, gate.use, why or "it cannot be told yet")
    if not holds:
        return Gate(name, "wait", why or "it does not hold")
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


def _approval(gate: ApprovalGate, evidence: Mapping[str, Any]) -> Gate:
    found, version = evidence.get("approval"), evidence.get("challenger")
    if not isinstance(found, Mapping):
        return Gate("approval", "wait", f"nobody has approved it: `fingerpost approve {version}`")
    if found.get("valid") is not True:
        return Gate("approval", "wait", "its approval is not signed with FINGERPOST_APPROVAL_TOKEN")
    at, moment = read_time(found.get("at")), read_time(evidence.get("as_of"))
    if at is None or moment is None or moment - at > timedelta(hours=gate.max_age_h):
        return Gate("approval", "wait", f"its approval is older than {gate.max_age_h:g} h")
    return Gate("approval", "pass", f"approved by {found.get('who')}: {found.get('why')}")


def _veto(found: Any) -> Gate:
    """The webhook is asked once all else passes; as long as it was not, it does not stand in the way."""
    if not isinstance(found, Mapping):
        return Gate("veto", "pass", "not asked yet")
    if found.get("vetoed") is not False:
        return Gate("veto", "wait", f"vetoed: {found.get('reason') or 'no reason given'}"[:500])
    return Gate("veto", "pass", "no veto")


def _result(kind: type[Found], name: str, max_age_h: float, evidence: Mapping[str, Any]) -> Found:
    """The result of a kind; raises FingerpostError with the reason where there is none that counts."""
    found = evidence.get(name)
    if not isinstance(found, Mapping) or found.get("result") is None:
        raise FingerpostError("no result yet")
    at, moment = read_time(found.get("at")), read_time(evidence.get("as_of"))
    if at is None or moment is None:
        raise FingerpostError("its result has no time")
    if moment - at > timedelta(hours=max_age_h):
        raise FingerpostError(f"its result is older than {max_age_h:g} h")
    try:
        return kind.read(found["result"])
    except FingerpostError as error:
        raise FingerpostError(f"its result {error}") from error


def _object(found: Any, name: str) -> Mapping[str, Any]:
    """A JSON object within another, empty if it is not there."""
    value = found.get(name) if isinstance(found, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _absent(name: str, use: str, why: str) -> Gate:
    return Gate(name, "wait" if use == "required" else "off", why)
