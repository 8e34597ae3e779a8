"""The story as a page: what clients saw while it happened, and what every chapter found."""

import base64
import html
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from examples.demo.classes import DemoHost
from examples.demo.measured import AHEAD_S, by_second_of_job, of_policies, requests_between, without_beginnings
from examples.demo.story import Told

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"fingerpost": "#1f6f8b", "least_request": "#c9a227"}
_STEP_S = 5.0
_STYLE = "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}img{max-width:100%}\
table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}pre{white-space:pre-wrap}"


def write_report(
    told: Told, access_log: Path, service: str, pictures: list[Path], path: Path, hosts: list[DemoHost]
) -> None:
    """Writes the page, pictures included, so that it can be sent as one file.

    Args:
        pictures: of the comparisons, as the flows left them; those that are not there are left out.
    """
    begun, ended = told.chapters[0][1], told.chapters[-1][2]
    requests = requests_between(access_log, service, begun, ended)
    parts = ["<h1>Fingerpost: the demo's story</h1>"]
    parts.append("<p>No request ended.</p>" if requests.empty else _image(timeline(requests, told)))
    for title, since, until in told.chapters:
        parts.append(f"<h2>{html.escape(title)}</h2><p>{until - since:.0f} s</p>")
        if title == told.chapters[0][0] and len(requests):
            side = requests[(requests["at_s"] >= since) & (requests["at_s"] < until)]
            parts.append(_image(side_by_side(without_beginnings(side, "arm", 1.0))))
    if "job" in told.found:
        parts.append(_job_section(requests, told.found["job"], hosts))
    parts += [f"<h2>{html.escape(name)}</h2>{_table(found)}" for name, found in told.found.items()]
    parts += [f"<h2>{html.escape(each.stem)}</h2>{_encoded(each.read_bytes())}" for each in pictures if each.exists()]
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Fingerpost demo</title><style>{_STYLE}</style>'
        f"<body>{''.join(parts)}</body></html>",
        encoding="utf-8",
    )


def timeline(requests: pd.DataFrame, told: Told) -> "Figure":
    """p50 and p99 of what clients saw, every five seconds, with the chapters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.add_subplot()
    begun = told.chapters[0][1]
    step = ((requests["at_s"] - begun) // _STEP_S).astype(int)
    for share, colour in ((0.5, "#1f6f8b"), (0.99, "#a23b3b")):
        values = requests.groupby(step)["duration_s"].quantile(share)
        axes.plot(values.index * _STEP_S / 60, values * 1000, color=colour, label=f"p{share * 100:.0f}", linewidth=1)
    for number, (title, since, _) in enumerate(told.chapters, start=1):
        axes.axvline((since - begun) / 60, color="grey", linewidth=0.8)
        axes.text((since - begun) / 60, 1.0, f" {number}. {title[:34]}", transform=axes.get_xaxis_transform(),
                  rotation=90, va="top", fontsize=7, color="dimgrey")  # fmt: skip
    axes.set(xlabel="minutes", ylabel="latency, ms", yscale="log", title="what clients saw")
    axes.legend(loc="lower right")
    return figure


def side_by_side(requests: pd.DataFrame) -> "Figure":
    """Both policies' latency over time, and as a curve of quantiles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    over_time, curve = figure.subplots(1, 2)
    shares = np.concatenate([np.arange(0.01, 0.99, 0.01), np.arange(0.99, 0.9995, 0.0005)])
    begun = requests["at_s"].min() if len(requests) else 0.0
    for arm, colour in _COLOURS.items():
        chosen = requests[requests["arm"] == arm]
        if chosen.empty:
            continue
        step = ((chosen["at_s"] - begun) // _STEP_S).astype(int)
        values = chosen.groupby(step)["duration_s"].quantile(0.9)
        over_time.plot(values.index * _STEP_S, values * 1000, "o-", color=colour, label=f"{arm}, p90", markersize=3)
        curve.plot(chosen["duration_s"].quantile(shares) * 1000, shares, color=colour, label=arm)
    over_time.set(xlabel="seconds (turns of 5 s)", ylabel="latency, ms", title="turn by turn")
    curve.set(xscale="log", xlabel="latency, ms", ylabel="share of requests", title="latency curves")
    for axes in (over_time, curve):
        axes.legend()
    return figure


def around_job(requests: pd.DataFrame, host: DemoHost, version: str) -> "Figure":
    """Where requests go around the beginnings of a host's job, and how long they and those at the host take."""
    from matplotlib.figure import Figure

    assert host.job is not None  # noqa: S101
    figure = Figure(figsize=(11, 6), layout="constrained")
    shares, latencies = figure.subplots(2, 1, sharex=True)
    for policy, of in of_policies(requests, version).items():
        course, colour = by_second_of_job(of, host.name, host.job), _COLOURS[policy]
        middle = course.index + 0.5
        shares.plot(middle, 100 * course["share"], "o-", color=colour, label=policy, markersize=3)
        latencies.plot(middle, 1000 * course["p90_s"], "o-", color=colour, label=f"{policy}, p90 of all", markersize=3)
        latencies.plot(middle, 1000 * course["host_p50_s"], ":", color=colour, label=f"{policy}, p50 at {host.name}")
    for axes in (shares, latencies):
        axes.axvspan(0, host.job.for_s, color="grey", alpha=0.2)
        axes.legend(fontsize=8)
    shares.set(ylabel=f"share of {host.name}, %", ylim=(0, None), title=f"around the job of {host.name}")
    latencies.set(ylabel="latency, ms", yscale="log", xlabel="seconds since the job began")
    return figure


def job_in_words(found: dict[str, Any]) -> str:
    """Says where the requests go around the job, whichever way it came out."""
    host, ours, peer = found["host"], found["fingerpost"], found["least_request"]

    def jobs_in_words(by: dict[str, Any]) -> str:
        return "1 job" if by["jobs"] == 1 else f"{by['jobs']} jobs"

    begun = f"Every {found['every_s']:g} s a job makes {host} slow for {found['for_s']:g} s. "
    if not (ours["jobs"] and peer["jobs"]):
        return f"{begun}Version {found['version']} met {jobs_in_words(ours)}, and least request {jobs_in_words(peer)}."
    return (
        f"{begun}By version {found['version']} it gets {ours['ahead_share']:.1%} of the requests in the {AHEAD_S:g} s "
        f"before a job, {ours['job_share']:.1%} within it and {ours['usual_share']:.1%} at other times "
        f"({jobs_in_words(ours)}); by least request {peer['ahead_share']:.1%}, {peer['job_share']:.1%} and "
        f"{peer['usual_share']:.1%} ({jobs_in_words(peer)})."
    )


def _job_section(requests: pd.DataFrame, found: dict[str, Any], hosts: list[DemoHost]) -> str:
    host = next(each for each in hosts if each.name == found["host"])
    picture = _image(around_job(requests, host, found["version"])) if len(requests) else ""
    return f"<h2>a job that comes regularly</h2><p>{html.escape(job_in_words(found))}</p>{picture}"


def _image(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _encoded(buffer.getvalue())


def _encoded(png: bytes) -> str:
    return f'<p><img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'


def _table(found: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(str(name))}</th><td><pre>{html.escape(_text(value))}</pre></td></tr>"
        for name, value in found.items()
    )
    return f"<table>{rows}</table>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=1, default=str)
