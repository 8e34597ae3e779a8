"""Answers the four questions of a newcomer in sentences: what is best, how sure, worth what, and is anything wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from fingerpost.category import SEPARATOR
from fingerpost.flow_status import FAILED
from fingerpost.serving.page.fleet import OK, HostRow
from fingerpost.serving.page.pickers import said_of

_NAMED = 3


def answers(page: Mapping[str, Any], rows: Sequence[HostRow], store_problem: str | None) -> dict[str, list[str]]:
    """The four questions of a newcomer, answered in sentences."""
    return {
        "best": _best(page["fleet"]["picture"]),
        "sure": _sure(page["predictions"]),
        "worth": _worth(page["worth"]),
        "wrong": _wrong(page, rows, store_problem),
    }


def _best(picture: Mapping[str, Any] | None) -> list[str]:
    if picture is None:
        return ["No host has reported yet: start an agent with FINGERPOST_ENGINE_URL set to this address."]
    found = []
    for column, category in enumerate(picture["categories"][:_NAMED]):
        rates = [(row[column], host) for row, host in zip(picture["throughput_rps"], picture["hosts"], strict=True)]
        known = sorted([(rate, host) for rate, host in rates if rate is not None], reverse=True)
        if known:
            (best, host), median = known[0], known[len(known) // 2][0]
            found.append(
                f"{category.replace(SEPARATOR, ', ')}: {host}, {best / median:.1f} times as fast as the median host."
            )
    return found or ["Hosts are known, but nothing has been measured of them yet."]


def _sure(predictions: Mapping[str, Any]) -> list[str]:
    errors = predictions["errors"]
    served = errors.get("served", {}).get("throughput_rps")
    if served is None:
        return ["Nothing to compare yet: predictions are compared with the window of 10 s that follows them."]
    who = f"version {predictions['model_version']}" if predictions["model_version"] else "the baseline"
    lines = [
        f"Predictions of throughput ({who}) were off by {served:.0%} on average over {predictions['windows']} windows."
    ]
    naive = errors.get("last window", {}).get("throughput_rps")
    if naive is not None:
        lines.append(f"To expect what the last window measured would have been off by {naive:.0%}.")
    return lines


def _worth(worth: Mapping[str, Any] | None) -> list[str]:
    if worth is None:
        return ["Nothing is known yet: it takes a minute of traffic."]
    lines = [
        f"The fleet carries {worth['rate_rps']:g} of at most {worth['bound_rps']:g} requests/s of this mix "
        f"({worth['used_share']:.0%}); blind to categories it could carry {worth['blind_rps']:g}."
    ]
    if worth["cores_saved"] is not None and worth["saved_share"] > 0:
        lines.append(
            f"That is worth {worth['cores_saved']:g} of {worth['cores']:g} cores ({worth['saved_share']:.0%})."
        )
    return lines


def _wrong(page: Mapping[str, Any], rows: Sequence[HostRow], store_problem: str | None) -> list[str]:
    found = [f"{name}: {text}" for name, text in page["pipeline"]["problems"].items()]
    if store_problem and not any(each.startswith("store") for each in found):
        found.append(f"store: {store_problem}")
    states = page["fleet"]["states"]
    bad = {name: count for name, count in states.items() if count and name not in (OK, "warming", "draining")}
    found += [
        f"{count} host{'s are' if count > 1 else ' is'} {state}: "
        f"{', '.join(each.name for each in rows if each.state == state)[:200]}"
        for state, count in bad.items()
    ]
    found += said_of(page["pickers"]["listed"])
    found += [
        f"flow {each['name']} failed: {each['text']}" for each in page["pipeline"]["flows"] if each["state"] == FAILED
    ]
    return found or ["Nothing is wrong."]
