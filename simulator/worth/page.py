"""Shows what predictive routing is worth: a screen of text, and one HTML file that loads nothing."""

import io
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.shown import matplotlib_label, visible
from fingerpost.simulator.worth.worth import OURS, PEER, Worth, overloaded

if TYPE_CHECKING:
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

NAMES = {
    "least_request": "least request",
    "least_request_full": "least request (of all)",
    "orca": "ORCA-weighted",
    "fingerpost": "predictive",
}
_SHOWN = 40
_BY = {"told": "as told", "measured": "measured", "seen": "seen at most"}
_VERDICTS = {
    "not at all": "Not at all: no host is measurably faster than another, at any kind of request. "
    "There is nothing to gain from predictive routing.",
    "in speed only": "In speed only: hosts differ in general, and no more by kind of request. "
    "Weights of hosts get a part of it; the figures below tell what is left.",
    "by category": "By category: which host is faster depends on the kind of request. Predictive routing uses that.",
    "unclear": "Unclear: so few requests allow both. Give a longer log.",
}
# Nothing is loaded; the colours of a picture are in it as data.
_ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}.verdict{font-size:1.2em}"
)


def sentences(worth: Worth) -> list[str]:
    """The answer in sentences; names in them are made visible, not escaped."""
    found, traffic, stretch = worth.measured.difference, worth.measured.traffic, worth.stretch
    own = np.quantile(stretch.own_s, [0.5, 0.99])
    peer = worth.at(PEER, worth.present)
    low, high = (stretch.rate_rps / each for each in (max(worth.bounds_rps), min(worth.bounds_rps)))
    places = sorted(set(worth.measured.places.count.tolist()))
    return [
        f"{len(traffic.host):,} requests, {len(traffic.hosts)} hosts, {len(traffic.categories)} kinds of request; "
        f"{stretch.mean_rps:.4g} requests/s, {stretch.rate_rps:.4g} in the busiest {stretch.seconds:.0f} s.",
        _VERDICTS[found.verdict],
        f"Hosts differ in general by {_percent(found.host.value)} ({_percent(found.host.low)} to "
        f"{_percent(found.host.high)}), and by category beyond that by {_percent(found.interaction.value)} "
        f"({_percent(found.interaction.low)} to {_percent(found.interaction.high)}).",
        f"A host serves {', '.join(str(each) for each in places[:4])}{' ...' if len(places) > 4 else ''} requests at "
        f"once ({_BY[worth.measured.places.source]}); {worth.measured.waited:.1%} of the requests had to wait.",
        *(
            ["No host was seen full: the fleet can carry more than is computed here. --slots tells how much it is."]
            if worth.measured.places.source == "seen"
            else []
        ),
        f"The busiest time uses {worth.present:.0%} ({low:.0%} to {high:.0%}) of what the fleet could carry at most.",
        f"Measured then: p50 {_ms(own[0])}, p99 {_ms(own[1])}; simulated with least request: "
        + (
            "requests pile up. "
            if overloaded(peer)
            else f"p50 {_ms(peer.mean('p50_s'))}, p99 {_ms(peer.mean('p99_s'))}. "
        )
        + "The two agree if least request routed then.",
        _gain(worth),
        *_savings(worth),
    ]


def text(worth: Worth) -> str:
    """One screen."""
    lines = [
        *sentences(worth),
        "",
        f"{'load':>5}  {'requests/s':>10}" + "".join(f"{_name(p):>24}" for p in _policies(worth)),
    ]
    lines.append(" " * 17 + "p50 / p99 ms".rjust(24) * len(_policies(worth)))
    for load, rate, cells in _rows(worth):
        lines.append(f"{load:>5}  {rate:>10}" + "".join(f"{each:>24}" for each in cells))
    lines += [f"highest load held by {_name(policy)}: {load}" for policy, load in _highest(worth)]
    lines += ["", *(f"- {visible(note)}" for note in notes(worth))]
    return "\n".join(lines)


def notes(worth: Worth) -> list[str]:
    """What was assumed and left out."""
    traffic = worth.measured.traffic
    refused = [f"Left out: {count:,} lines or rows for {reason}." for reason, count in traffic.refused.most_common(5)]
    return [
        *traffic.notes,
        "Service times are those of requests that found a free place; waiting is simulated, not taken from the log.",
        "Predictive routing is simulated with the shipped settings, and learns while it runs.",
        *refused,
    ]


def html(worth: Worth) -> str:
    """A page by itself: pictures are in it, nothing is loaded, every name is escaped."""
    said = "".join(
        f"<p{' class=verdict' if number == 1 else ''}>{_h(each)}</p>" for number, each in enumerate(sentences(worth))
    )
    head = "".join(f"<th>{_h(_name(each))}<br>p50 / p99 ms</th>" for each in _policies(worth))
    body = "".join(
        f"<tr><td>{load}</td><td>{rate}</td>{''.join(f'<td>{_h(each)}</td>' for each in cells)}</tr>"
        for load, rate, cells in _rows(worth)
    )
    held = "".join(f"<li>{_h(_name(policy))}: {_h(load)}</li>" for policy, load in _highest(worth))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_ALLOWED}">'
        f"<title>What predictive routing is worth</title><style>{_STYLE}</style></head><body>"
        f"<h1>What predictive routing is worth for this fleet</h1>{said}"
        f"<table><tr><th>load</th><th>requests/s</th>{head}</tr>{body}</table>"
        + (f"<h2>Highest load held</h2><ul>{held}</ul>" if held else "")
        + f"<h2>p99 by load</h2>{_latencies(worth)}<h2>Hosts by category</h2>{_cells(worth)}"
        f"<h2>Notes</h2><ul>{''.join(f'<li>{_h(each)}</li>' for each in notes(worth))}</ul></body></html>\n"
    )


def _gain(worth: Worth) -> str:
    gain = worth.gain()
    if gain is not None:
        return (
            f"At the present load, p99 of least request is {gain[0]:.2f} times that of predictive routing "
            f"({gain[1]:.2f} to {gain[2]:.2f})."
        )
    ours = worth.at(OURS, worth.present)
    if overloaded(ours):
        return "The present load is more than predictive routing could hold for long."
    return (
        "Least request does not hold the present load for long: requests pile up. "
        f"Predictive routing has a p99 of {_ms(ours.mean('p99_s'))}."
    )


def _savings(worth: Worth) -> list[str]:
    if not worth.highest:
        return []
    held = {each.policy: each.load for each in worth.highest}
    objective = f"With p99 up to {_ms(worth.slo_s)}"
    if worth.saved is None:
        return [f"{objective} least request holds {held[PEER]:.0%} of the bound, predictive routing {held[OURS]:.0%}."]
    hosts = worth.saved * len(worth.measured.traffic.hosts)
    cores = "" if worth.cores is None else f", {worth.saved * worth.cores:.1f} of {worth.cores:.0f} cores"
    return [
        f"{objective} least request holds {held[PEER]:.0%} of the bound, predictive routing {held[OURS]:.0%}: "
        f"{max(worth.saved, 0):.0%} of the hosts ({max(hosts, 0):.1f}{cores}) could go at equal service."
    ]


def _policies(worth: Worth) -> list[str]:
    return list(dict.fromkeys(each.policy for each in worth.points))


def _name(policy: str) -> str:
    return NAMES.get(policy, policy)


def _rows(worth: Worth) -> Iterable[tuple[str, str, list[str]]]:
    bound = float(np.mean(worth.bounds_rps))
    for load in sorted({each.load for each in worth.points}):
        points = [worth.at(policy, load) for policy in _policies(worth)]
        cells = [
            "overloaded"
            if overloaded(each)
            else f"{_number(each.mean('p50_s') * 1000)} / {_number(each.mean('p99_s') * 1000)}"
            for each in points
        ]
        yield f"{load:.0%}{'*' if load == worth.present else ' '}", f"{load * bound:.4g}", cells


def _highest(worth: Worth) -> list[tuple[str, str]]:
    bound = float(np.mean(worth.bounds_rps))
    return [
        (each.policy, f"{each.load:.0%} of the bound, {each.load * bound:.4g} requests/s") for each in worth.highest
    ]


def _latencies(worth: Worth) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for policy in _policies(worth):
        held = (each for each in worth.points if each.policy == policy and not overloaded(each))
        points = sorted(held, key=lambda each: each.load)
        axes.plot(
            [each.load for each in points],
            [each.mean("p99_s") * 1000 for each in points],
            marker="o",
            linewidth=3 if policy == OURS else 1.3,
            label=_name(policy),
        )
    axes.axvline(worth.present, color="gray", linewidth=1, label="present load")
    axes.axhline(worth.slo_s * 1000, color="gray", linestyle="--", linewidth=1, label="objective")
    axes.set_yscale("log")
    axes.set_xlabel("load, share of what the fleet could carry at most")
    axes.set_ylabel("p99, ms")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return _svg(figure)


def _cells(worth: Worth) -> str:
    """How long hosts take for each of the busiest categories, over what hosts take for it on average."""
    from matplotlib.figure import Figure

    found, traffic = worth.measured.difference, worth.measured.traffic
    busy = np.argsort(found.count.sum(axis=0))[::-1][:_SHOWN]
    hosts = np.arange(len(traffic.hosts))[:_SHOWN]
    apart = (found.log_s - found.log_s.mean(axis=0))[np.ix_(hosts, busy)]
    figure = Figure(figsize=(9, 2 + 0.22 * len(busy)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.exp(apart).T, aspect="auto", cmap="RdYlGn_r", norm=_norm(apart))
    axes.set_xticks(
        range(len(hosts)), [matplotlib_label(traffic.hosts[each]) for each in hosts], rotation=90, fontsize=7
    )
    axes.set_yticks(range(len(busy)), [matplotlib_label(traffic.categories[each])[:60] for each in busy], fontsize=7)
    figure.colorbar(image, label="service time over the hosts' mean")
    return _svg(figure)


def _norm(apart: Floats) -> "Normalize":
    from matplotlib.colors import LogNorm

    most = float(np.exp(max(np.abs(apart).max(), 0.1)))
    return LogNorm(1 / most, most)


def _svg(figure: "Figure") -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    drawn = out.getvalue()
    return drawn[drawn.index("<svg") :]


def _percent(spread: float) -> str:
    return f"{np.expm1(spread):.0%}"


def _ms(seconds: float) -> str:
    return f"{_number(seconds * 1000)} ms"


def _number(value: float) -> str:
    """Three digits at least, and no powers of ten."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _h(words: str) -> str:
    return escape(visible(words))
