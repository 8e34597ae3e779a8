"""`fingerpost shadow`, `fingerpost offpolicy`: what the challenger would do, from what was logged."""

from typing import Annotated

import typer

from fingerpost.clock import clock_us

_Hours = Annotated[float, typer.Option(min=0.01, max=720, help="How much of the past to look at.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    app.command()(shadow)
    app.command()(offpolicy)


def shadow(hours: _Hours = 24.0, json_output: _Json = False) -> None:
    """Compares what champion and challenger predicted with what then happened."""
    import json

    from fingerpost.abtest.reports import shadow_markdown
    from fingerpost.abtest.shadow.compare import compare
    from fingerpost.abtest.shadow.join import load_shadow
    from fingerpost.settings import get_settings

    settings, now_us = get_settings(), clock_us()
    joined = load_shadow(settings.lake, settings.service, now_us - round(hours * 3.6e9), now_us, settings.window_s)
    found = compare(joined, settings.latency_weight)
    typer.echo(json.dumps(found.to_json(), indent=1) if json_output else shadow_markdown(found))


def offpolicy(hours: _Hours = 24.0, json_output: _Json = False) -> None:
    """Estimates the mean latency if the challenger had routed, from requests that the champion routed."""
    import json

    from fingerpost.abtest.offpolicy.records import challenger_off_policy
    from fingerpost.abtest.reports import interval
    from fingerpost.settings import get_settings
    from fingerpost.shown import visible

    now_us = clock_us()
    found = challenger_off_policy(get_settings(), now_us - round(hours * 3.6e9), now_us)
    if json_output:
        typer.echo(json.dumps(found.to_json(), indent=1))
        return
    estimate = found.estimate
    typer.echo(
        f"challenger {found.versions[1]}, champion {found.versions[0]}: {estimate.requests} requests, worth "
        f"{estimate.effective:.0f} of the challenger's own; the replayed champion agrees with {found.replay:.0%}"
    )
    if not estimate.usable:
        typer.echo(f"no estimate: {visible(estimate.reason)}")
        return
    for name in ("logged", "ips", "snips", "dr", "gain"):
        typer.echo(f"{name:>7}: {interval(getattr(estimate, name))} s")
