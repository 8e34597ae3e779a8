"""Says in sentences what the stages of the story found, whichever way it came out."""

from collections.abc import Mapping
from typing import Any

from examples.demo.measured import AHEAD_S


def _ms(value_s: float) -> str:
    return f"{1000 * value_s:.3g} ms"


def _latency(figures: Mapping[str, Any]) -> str:
    if not figures["requests"]:
        return "no requests"
    failed = f", {figures['failed']} failed" if figures["failed"] else ""
    return f"median {_ms(figures['p50_s'])}, p99 {_ms(figures['p99_s'])} ({figures['requests']} requests{failed})"


def side_by_side(found: Mapping[str, Any], who: str) -> list[str]:
    """Both ways of routing on the same traffic; `who` predicted."""
    ours, peer = found["fingerpost"], found["least_request"]
    return [f"Routed by {who}: {_latency(ours)}. By Envoy's least request, in turns with it: {_latency(peer)}."]


def first_model(trained: Mapping[str, Any], records: int) -> list[str]:
    """What the first training came to."""
    skills = ", ".join(f"{target} {skill:+.1%}" for target, skill in trained["skill"].items())
    serves = "serves" if trained["champion"] else "does not serve, the baseline goes on"
    return [
        f"Version {trained['model_version']}, trained on {records} request records, {serves}: {trained['reason']}.",
        f"Its errors are smaller than those of the best naive forecast by: {skills}.",
    ]


def change(before: Mapping[str, Any], after: Mapping[str, Any], kind: str) -> list[str]:
    """What clients saw of the change."""
    return [
        f"At {kind}, before: {_latency(before[kind])}. In the first seconds after it: {_latency(after[kind])}.",
        f"Of all requests, before: {_latency(before)}. After it: {_latency(after)}.",
    ]


def drift(found: Mapping[str, Any]) -> list[str]:
    """What the drift report named."""
    reasons = [f"The drift report: {each}." for each in found["reasons"][:3]]
    cells = ", ".join(found["cells"][:6]) + (" and others" if len(found["cells"]) > 6 else "")
    return [*reasons, *([f"Cells that changed: {cells}."] if cells else []), f"Version {found['trained']} was trained."]


def shadow(found: Mapping[str, Any]) -> list[str]:
    """How the challenger did in the shadow."""
    champion, challenger = found["versions"]
    return [f"In the shadow, version {challenger} beside {champion}: {found['status']}. {_sentence(found['reason'])}"]


def experiment(found: Mapping[str, Any]) -> list[str]:
    """What the experiment came to."""
    lines = [f"The experiment: {found['verdict']} after {found['pairs']} pairs. {_sentence(found['why'])}"]
    effects = found["effects"]
    for each in list((effects.values() if isinstance(effects, Mapping) else effects) or [])[:4]:
        if isinstance(each, Mapping) and each.get("estimate") is not None:
            low, high = each.get("low"), each.get("high")
            interval = f", {low:.2f} to {high:.2f}" if low and high else ""
            lines.append(f"{each.get('metric', 'latency')}: {each['estimate']:.2f} ({each.get('unit', '')}){interval}.")
    return lines


def promotion(found: Mapping[str, Any]) -> list[str]:
    """The promotion, and what clients saw afterwards."""
    return [
        f"Version {found['version']} instead of {found['previous']}: {_sentence(found['reason'])}",
        f"Afterwards, routed by it: {_latency(found['afterwards'])}.",
    ]


def bad_version(found: Mapping[str, Any]) -> list[str]:
    """What became of the bad version."""
    return [f"Version {found['version']}, made to be bad: {found['action']}. {_sentence(found['reason'])}"]


def let_through(found: Mapping[str, Any]) -> list[str]:
    """What the watch did."""
    return [f"After {found['seconds']:.0f} s it was {found['state']}: {_sentence(found['reason'])}"]


def job(found: Mapping[str, Any]) -> str:
    """Where the requests go around the job of the one host that has one."""
    host, ours, peer = found["host"], found["fingerpost"], found["least_request"]

    def jobs(by: Mapping[str, Any]) -> str:
        return "1 job" if by["jobs"] == 1 else f"{by['jobs']} jobs"

    begun = f"Every {found['every_s']:g} s a job makes {host} slow for {found['for_s']:g} s. "
    if not (ours["jobs"] and peer["jobs"]):
        return f"{begun}Version {found['version']} met {jobs(ours)}, and least request {jobs(peer)}."
    return (
        f"{begun}By version {found['version']} it gets {ours['ahead_share']:.1%} of the requests in the {AHEAD_S:g} s "
        f"before a job, {ours['job_share']:.1%} within it and {ours['usual_share']:.1%} at other times "
        f"({jobs(ours)}); by least request {peer['ahead_share']:.1%}, {peer['job_share']:.1%} and "
        f"{peer['usual_share']:.1%} ({jobs(peer)})."
    )


def _sentence(text: str) -> str:
    said = str(text).strip().rstrip(".")
    return f"{said[:1].upper()}{said[1:]}."
