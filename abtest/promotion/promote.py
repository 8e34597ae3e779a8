"""Carrying decisions out: promotion, rejection, rollback. Each is recorded first, then done under the lock."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fingerpost.abtest.promotion.decide import Decision, decide
from fingerpost.abtest.promotion.evidence import gather
from fingerpost.abtest.promotion.policy import load_policy
from fingerpost.abtest.promotion.record import note_applied, same_wait, write_record
from fingerpost.abtest.registry import HOLD_TAG, WATCH_TAG, Registry
from fingerpost.aliases import CHALLENGER, CHAMPION
from fingerpost.errors import FingerpostError
from fingerpost.settings import Settings


class StaleEvidenceError(FingerpostError):
    """The registry is not as the evidence says it is: somebody else was faster."""


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

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def consider_challenger(settings: Settings, who: str) -> Outcome | None:
    """Decides on the version that is challenger now, and does what was decided; None: there is no challenger."""
    registry = Registry(settings)
    version = registry.version_of(CHALLENGER)
    return None if version is None else decide_on(settings, registry, version, who, "")


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
            swap(settings, registry, evidence["champion"], version, record)
        elif action == "reject":
            reject(registry, version, decision)
    except StaleEvidenceError as error:
        note_applied(registry, record, f"no: {error}")
        raise
    note_applied(registry, record, "yes" if done.applied else "nothing to do")
    return done


def swap(settings: Settings, registry: Registry, expected: str | None, version: str, record: str) -> None:
    """Makes a version champion, if the champion still is the expected one, and has it watched.

    Notes go first: cut short between them and the alias, nothing has been promoted, and the next run finds the notes
    to be of a version that is not champion.

    Raises:
        StaleEvidenceError: it is not.
    """
    with registry.lock():
        present = registry.version_of(CHAMPION)
        if present != expected:
            raise StaleEvidenceError(f"champion is version {present} by now, the evidence is against {expected}")
        if present == version:
            raise StaleEvidenceError(f"version {version} is champion already")
        now = datetime.now(UTC)
        if present is not None:
            registry.set_former_champions([*(each for each in registry.former_champions() if each != version), present])
            watch = {
                "version": version,
                "previous": present,
                "since": now.isoformat(),
                "until": (now + timedelta(seconds=settings.watch_s)).isoformat(),
                "record": record,
            }
            registry.set_note(WATCH_TAG, watch if settings.watch_s > 0 else None)
        registry.set_fate(version, "promoted")
        registry.set_champion(version)


def reject(registry: Registry, version: str, decision: Decision) -> None:
    """Takes the alias `challenger` from a version that failed, if it still has it."""
    with registry.lock():
        registry.drop_challenger(version)
        registry.set_fate(version, f"rejected: {decision.reason}"[:500])


def rollback(
    settings: Settings, who: str, why: str, evidence: dict[str, Any] | None = None, expected: str | None = None
) -> Outcome:
    """Makes the version champion that was it before.

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
        registry.set_fate(present, f"rolled back: {why}"[:500])
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
