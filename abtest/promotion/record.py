"""Records of decisions: an MLflow run each, in the experiment `MODEL-promotion`, from which it can be decided again."""

import contextlib
import getpass
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fingerpost import __version__
from fingerpost.abtest.promotion.decide import Decision, decide
from fingerpost.abtest.promotion.evidence import read_artifact
from fingerpost.abtest.promotion.policy import PolicyFile, parse_policy
from fingerpost.abtest.registry import Registry
from fingerpost.aliases import ALIASES, none_if_missing
from fingerpost.errors import FingerpostError

DECISION = "decision.json"
# MLflow refuses tags of more than 8000 characters, and older servers of more than 5000.
_MAX_TAG = 5000


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
    client, versions = registry.client, {role: str(evidence.get(role) or "") for role in ALIASES}
    params = {"action": action, **versions, "policy_sha256": policy.sha256 if policy else ""}
    tags = {
        **{"action": action, "who": who, "why": why, **versions, "applied": ""},
        # What MLflow shows as the run's user.
        "mlflow.user": who,
    }
    with evidence_run(client, f"{registry.name}-promotion", f"{action} {versions['challenger']}", tags) as run_id:
        for name, value in params.items():
            client.log_param(run_id, name, value)
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
        client.log_dict(run_id, document, DECISION)
    return run_id


def note_applied(registry: Registry, run_id: str, applied: str) -> None:
    """Says in the record what came of the decision."""
    registry.client.set_tag(run_id, "applied", applied)


def history(registry: Registry, most: int = 50) -> list[Record]:
    """The decisions, newest first."""
    experiment = registry.client.get_experiment_by_name(f"{registry.name}-promotion")
    if experiment is None:
        return []
    runs = registry.client.search_runs(
        [experiment.experiment_id], max_results=most, order_by=["attributes.start_time DESC"]
    )
    names = ("action", "champion", "challenger", "who", "why", "applied")
    return [
        Record(
            run_id=run.info.run_id,
            when=datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds"),
            **{name: run.data.tags.get(name, "") for name in names},
        )
        for run in runs
    ]


def same_wait(registry: Registry, evidence: Mapping[str, Any], decision: Decision, policy: PolicyFile) -> str | None:
    """The newest record, if it says what is decided now: to wait, of the same versions, for the same reasons.

    Somebody asks every few minutes; a record of each would bury the rest.
    """
    for last in history(registry, 1):
        told = (str(evidence.get("champion") or ""), str(evidence.get("challenger") or ""), decision.reason)
        if last.action == "wait" and (last.champion, last.challenger, last.why) == told:
            run = registry.client.get_run(last.run_id)
            return last.run_id if run.data.params.get("policy_sha256") == policy.sha256 else None
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
            found = read_artifact(registry.client, run_id, DECISION)
    except (OSError, ValueError) as error:
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


@contextlib.contextmanager
def evidence_run(client: Any, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
    """A run of an MLflow experiment, finished with the block, or failed with it; its id."""
    cut = {tag: value[:_MAX_TAG] for tag, value in tags.items()}
    run = client.create_run(experiment_id(client, experiment), run_name=name, tags=cut)
    run_id = str(run.info.run_id)
    try:
        yield run_id
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)


def experiment_id(client: Any, name: str) -> str:
    """The id of an MLflow experiment, made where it is not there yet."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:
        # Somebody else made it just now.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)
