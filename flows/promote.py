"""The promotion flow: watches over the last promotion, then decides on the challenger."""

from dataclasses import asdict
from typing import Any

from prefect import flow

from fingerpost.abtest.promotion.promote import Outcome, consider_challenger
from fingerpost.abtest.promotion.watch import WatchOutcome, check_promotion
from fingerpost.flows.alerts import send_alert
from fingerpost.flows.steps import leave_markdown, reported, run_step, settings_of, tell_failure
from fingerpost.shown import markdown_text
from fingerpost.training.registry import StaleEvidenceError

_WHO = "flow promote"


@flow(name="promote", timeout_seconds=600, on_failure=[tell_failure], on_crashed=[tell_failure])
@reported
def promote_flow(service: str = "") -> dict[str, Any]:
    """Looks at the watch and at the challenger; leaves what every gate says."""
    settings = settings_of(service)
    watched: WatchOutcome | None = run_step("watch", lambda: check_promotion(settings, _WHO))
    if watched is not None and watched.state == "rolled back":
        send_alert(settings, "rollback", f"version {watched.previous} is champion again: {watched.reason}")
    try:
        decided: Outcome | None = run_step("decide", lambda: consider_challenger(settings, _WHO))
    except StaleEvidenceError as error:
        # Whoever was faster has decided; the next run sees the registry as it is then.
        leave_markdown(settings, "promotion", f"Nothing was done: {markdown_text(str(error))}.\n")
        return {"watch": watched and asdict(watched), "decision": None, "stale": str(error)}
    if decided is not None and decided.action == "promote":
        send_alert(settings, "promotion", f"version {decided.version} instead of {decided.previous}: {decided.reason}")
    if decided is not None and decided.action == "reject":
        send_alert(settings, "refused model", f"version {decided.version}: {decided.reason}")
    leave_markdown(
        settings,
        "promotion",
        _markdown(watched, decided),
        description="Who is promoted, and why",
    )
    return {"watch": watched and asdict(watched), "decision": decided and asdict(decided), "stale": None}


def _markdown(watched: WatchOutcome | None, decided: Outcome | None) -> str:
    watch = (
        f"Watch over version {watched.version}: {watched.state}, {markdown_text(watched.reason)}.\n\n"
        if watched
        else ""
    )
    if decided is None:
        return f"{watch}There is no challenger.\n"
    gates = (decided.decision or {}).get("gates", [])
    rows = "\n".join(f"| {gate['name']} | {gate['status']} | {markdown_text(gate['reason'])} |" for gate in gates)
    return (
        f"{watch}# Version {decided.version} against {decided.previous}: {decided.action}\n\n"
        f"Record `{decided.record}`: `fingerpost decisions replay {decided.record}`\n\n"
        f"| gate | | why |\n|---|---|---|\n{rows}\n"
    )
