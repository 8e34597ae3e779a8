"""Carrying decisions out: promotion, rejection, rollback. Each is recorded first, then done under the lock."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fingerpost.abtest.promotion.concurrent import begin_watch
from fingerpost.abtest.promotion.decide import COMPARISONS, FORMAT, Decision, decide
from fingerpost.abtest.promotion.outside import approval_of, ask_veto
from fingerpost.abtest.promotion.policy import load_policy
from fingerpost.abtest.promotion.record import note_applied, same_wait, write_record
from fingerpost.clock import clock_us
from fingerpost.errors import FingerpostError
from fingerpost.experiment import CHALLENGER, CHAMPION
from fingerpost.settings import Settings
from fingerpost.training.registry import HOLD_TAG, OUTCOME_TAG, WATCH_TAG, Registry, StaleEvidenceError


@dataclass(frozen=True)
class Outcome:
    """What was decided and done.

    Args:
        action: promote, wait, reject, forced, rollback.
        record: id of the record's run.
        applied: whether the aliases were changed.
    """

    action: str
    version: str
    previous: str | None
    reason: str
    record: str
    applied: bool
    decision: dict[str, Any] | None


def consider_challenger(settings: Settings, who: str) -> Outcome | None:
    """Decides on the version that is challenger now, and does what was decided.

    None: there is no challenger, or it is the champion of before, kept for the watch.
    """
    registry = Registry(settings)
    version, watch = registry.version_of(CHALLENGER), registry.note(WATCH_TAG)
    if version is None or (watch is not None and watch.get("previous") == version):
        return None
    return decide_on(settings, registry, version, who, "")


def promote_version(settings: Settings, version: str, who: str, why: str = "", skip_gates: bool = False) -> Outcome:
    """Promotes a version if its gates pass, or whatever they say.

    Raises:
        FingerpostError: there is no such version, or it is champion already.
    """
    registry = Registry(settings)
    if registry.version(version) is None:
        raise FingerpostError(f"{registry.name} has no version {version!r}")
    if registry.version_of(CHAMPION) == version:
        raise FingerpostError(f"version {version} of {registry.name} is champion already")
    return decide_on(settings, registry, version, who, why, skip_gates)


def decide_on(
    settings: Settings, registry: Registry, version: str, who: str, why: str, skip_gates: bool = False
) -> Outcome:
    """Gathers evidence, decides, records, acts.

    Raises:
        StaleEvidenceError: the champion changed meanwhile; the record says so, and nothing was done.
    """
    policy = load_policy(settings.promotion_policy)
    evidence = gather(registry, version)
    if policy.policy.approval.use == "required":
        evidence["approval"] = approval_of(settings, registry, version)
    decision = decide(policy.policy, evidence)
    if policy.policy.veto.url and (decision.outcome == "promote" or skip_gates):
        about = ("model_name", "champion", "challenger")
        question = {**{name: evidence[name] for name in about}, "reason": why or decision.reason}
        evidence["veto"] = ask_veto(policy.policy, question)
        decision = decide(policy.policy, evidence)
    action = "forced" if skip_gates else decision.outcome
    if action == "wait" and not why:
        told = same_wait(registry, evidence, decision, policy)
        if told is not None:
            return Outcome(action, version, evidence["champion"], decision.reason, told, False, decision.to_json())
    record = write_record(registry, action, evidence, policy, decision, who, why or decision.reason)
    done = Outcome(
        action, version, evidence["champion"], why or decision.reason, record, action != "wait", decision.to_json()
    )
    try:
        if action in ("promote", "forced"):
            watch = _watch(settings, version, evidence["champion"], record)
            registry.swap_champion(evidence["champion"], version, watch)
            if watch is not None and evidence["champion"] is not None:
                begin_watch(settings, registry, watch, clock_us())
        elif action == "reject":
            reject(registry, version, decision)
    except StaleEvidenceError as error:
        note_applied(registry, record, f"no: {error}")
        raise
    note_applied(registry, record, "yes" if done.applied else "nothing to do")
    return done


def _watch(settings: Settings, version: str, previous: str | None, record: str) -> dict[str, Any] | None:
    """The note of a watch that begins now; None where promotions are not watched."""
    begin = datetime.now(UTC)
    end = begin + timedelta(seconds=settings.watch_s)
    watch = {"version": version, "previous": previous, "since": begin.isoformat(), "until": end.isoformat()}
    return {**watch, "record": record} if settings.watch_s > 0 else None


def reject(registry: Registry, version: str, decision: Decision) -> None:
    """Takes the alias `challenger` from a version that failed, if it still has it."""
    with registry.lock():
        registry.drop_challenger(version)
        registry.tag_version(version, OUTCOME_TAG, f"rejected: {decision.reason}"[:500])


def rollback(
    settings: Settings, who: str, why: str, evidence: dict[str, Any] | None = None, expected: str | None = None
) -> Outcome:
    """Rolls back to the previous champion.

    Args:
        evidence: what the watch found, for the record.
        expected: only if this version is champion; None: whichever is.

    Raises:
        FingerpostError: there was none before.
        StaleEvidenceError: another version is champion.
    """
    registry = Registry(settings)
    with registry.lock():
        present, former = registry.version_of(CHAMPION), registry.former_champions()
        if expected is not None and present != expected:
            raise StaleEvidenceError(f"champion is version {present} by now, not {expected}")
        if present is None or not former:
            raise FingerpostError(f"no version of {registry.name} was champion before {present}: nothing to go back to")
        previous = former[-1]
        if registry.version(previous) is None:
            raise FingerpostError(f"version {previous} of {registry.name}, champion before, is not there any more")
        told = {"model_name": registry.name, "champion": present, "challenger": previous, "watch": evidence}
        record = write_record(registry, "rollback", told, None, None, who, why)
        # The alias first: requests come before notes. Cut short here, the notes are of a version that is not champion.
        registry.set_champion(previous)
        registry.set_former_champions(former[:-1])
        registry.set_note(WATCH_TAG, None)
        registry.drop_challenger(present)
        registry.tag_version(present, OUTCOME_TAG, f"rolled back: {why}"[:500])
    note_applied(registry, record, "yes")
    return Outcome("rollback", previous, present, why, record, True, None)


def set_hold(settings: Settings, on: bool, who: str, why: str = "", until: datetime | None = None) -> None:
    """Puts promotion on hold, or lets it go on.

    Raises:
        FingerpostError: there is no registered model yet.
    """
    registry = Registry(settings)
    if on and registry.version_of(CHAMPION) is None:
        raise FingerpostError(f"{registry.name} has no champion yet: there is nothing to hold")
    note = {"who": who, "reason": why, "until": until.isoformat() if until else None}
    with registry.lock():
        registry.set_note(HOLD_TAG, note if on else None)


def gather(registry: Registry, challenger: str, now: datetime | None = None) -> dict[str, Any]:
    """The evidence on a version, as `decide` takes it."""
    moment = now or datetime.now(UTC)
    return {
        "format": FORMAT,
        "model_name": registry.name,
        "champion": registry.version_of(CHAMPION),
        "challenger": challenger,
        "as_of": moment.isoformat(),
        "hold": _hold(registry, moment),
        "offline": registry.offline_evidence(challenger),
        **{kind: registry.latest_result(kind, challenger) for kind in (*COMPARISONS, "drift")},
    }


def _hold(registry: Registry, moment: datetime) -> dict[str, Any] | None:
    """A manual hold, or else a watch over the last promotion."""
    hold = registry.note(HOLD_TAG)
    if hold is not None:
        until = hold.get("until")
        if not until or datetime.fromisoformat(until) > moment:
            return {
                "reason": f"on hold by {hold.get('who')}: {hold.get('reason') or 'no reason given'}",
                "until": until,
            }
    watch = registry.note(WATCH_TAG)
    if watch is not None and watch.get("version") == registry.version_of(CHAMPION):
        return {"reason": f"version {watch['version']} is still watched", "until": None}
    return None
