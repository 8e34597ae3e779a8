"""Records of decisions: an MLflow run each, in the experiment `MODEL-promotion`, from which it can be decided again."""

import getpass
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fingerpost import __version__
from fingerpost.abtest.promotion.decide import Decision, decide
from fingerpost.abtest.promotion.policy import PolicyFile, parse_policy
from fingerpost.errors import FingerpostError
from fingerpost.experiment import ALIASES
from fingerpost.features.status import bring_status, send_status
from fingerpost.flow_status import decisions_path, note_decision
from fingerpost.settings import Settings
from fingerpost.training.registry import Registry, none_if_missing

DECISION = "decision.json"


@dataclass(frozen=True)
class Record:
    """One line of the history.

    Args:
        action: promote, wait, reject, forced (gates skipped by a person), rollback, kept (watched and found good).
        applied: what came of it: yes, or why not; empty if it was cut short.
    """

    run_id: str
    when: str
    action: str
    champion: str
    challenger: str
    who: str
    why: str
    applied: str
    policy_sha256: str


def whoami() -> str:
    """The person at the terminal."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def write_record(
    registry: Registry,
    action: str,
    evidence: Mapping[str, Any],
    policy: PolicyFile | None,
    decision: Decision | None,
    who: str,
    why: str,
) -> str:
    """Logs a decision before it is carried out; returns the id of its run.

    Args:
        policy, decision: None where no gate was asked: a rollback.
    """
    versions = {role: str(evidence.get(role) or "") for role in ALIASES}
    # `mlflow.user` is what MLflow shows as the run's user.
    tags = {"action": action, "who": who, "why": why, **versions, "applied": "", "mlflow.user": who}
    with registry.run("promotion", f"{action} {versions['challenger']}", tags) as run:
        run.log({"action": action, **versions, "policy_sha256": policy.sha256 if policy else ""})
        document = {
            "format": 1,
            "program": __version__,
            "action": action,
            "who": who,
            "when": datetime.now(UTC).isoformat(),
            "why": why,
            "policy": {"text": policy.text, "sha256": policy.sha256} if policy else None,
            "evidence": evidence,
            "decision": decision.to_json() if decision else None,
        }
        run.json(DECISION, document)
    _note(registry.settings, _in_short(run.id, document, versions))
    return run.id


def _note(settings: Settings, decision: Mapping[str, str]) -> None:
    """Adds a decision to those that the engine's page lists."""
    bring_status(settings, decisions_path(settings.lake, settings.service))
    send_status(settings, *note_decision(settings.lake, settings.service, decision))


def _in_short(run_id: str, document: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, str]:
    """A decision as the engine's page lists it."""
    gates = (document["decision"] or {}).get("gates", [])
    said = "; ".join(f"{gate['name']}: {gate['status']}, {gate['reason']}" for gate in gates)
    return {
        "id": run_id,
        **{name: document[name] for name in ("when", "action", "who", "why")},
        **versions,
        "gates": said,
    }


def note_applied(registry: Registry, run_id: str, applied: str) -> None:
    """Notes in the record what came of the decision."""
    registry.tag_run(run_id, "applied", applied)


def history(registry: Registry, most: int = 50) -> list[Record]:
    """The decisions, newest first."""
    names = ("action", "champion", "challenger", "who", "why", "applied")
    return [
        Record(
            run_id=run.info.run_id,
            when=datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds"),
            policy_sha256=run.data.params.get("policy_sha256", ""),
            **{name: run.data.tags.get(name, "") for name in names},
        )
        for run in registry.runs("promotion", most=most)
    ]


def same_wait(registry: Registry, evidence: Mapping[str, Any], decision: Decision, policy: PolicyFile) -> str | None:
    """The newest record, if it says what is decided now: to wait, of the same versions, for the same reasons.

    Somebody asks every few minutes; a record of each would bury the rest.
    """
    now = (
        *("wait", str(evidence.get("champion") or ""), str(evidence.get("challenger") or "")),
        *(decision.reason, policy.sha256),
    )
    for last in history(registry, 1):
        if (last.action, last.champion, last.challenger, last.why, last.policy_sha256) == now:
            return last.run_id
    return None


def load_record(registry: Registry, run_id: str) -> dict[str, Any]:
    """The whole record.

    Raises:
        FingerpostError: there is none under this id.
    """
    found = None
    try:
        with none_if_missing():
            registry.client.get_run(run_id)
            found = registry.read_json(run_id, DECISION)
    except OSError as error:
        raise FingerpostError(f"record {run_id!r} holds no decision that can be read: {error}") from error
    if found is None:
        raise FingerpostError(f"no record {run_id!r}: `fingerpost history` lists them")
    if not isinstance(found, dict):
        raise FingerpostError(f"record {run_id!r} is not a decision")
    return found


def replay(record: Mapping[str, Any]) -> tuple[Decision, bool]:
    """Decides again on a record's evidence, by the policy in it; and whether that gives what was decided then.

    Raises:
        FingerpostError: no gates were asked for it, or its policy is not the one whose hash it has.
    """
    policy, evidence, decided = record.get("policy"), record.get("evidence"), record.get("decision")
    if not isinstance(policy, dict) or not isinstance(evidence, dict) or not isinstance(decided, dict):
        raise FingerpostError(f"a record of {record.get('action')} has no gates that could be asked again")
    parsed = parse_policy(str(policy.get("text")), "the record's policy")
    if parsed.sha256 != policy.get("sha256"):
        raise FingerpostError("the record's policy does not have the hash that the record tells")
    again = decide(parsed.policy, evidence)
    return again, again.to_json() == decided
