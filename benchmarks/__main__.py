"""`python -m benchmarks ...`: what the program itself costs, and how good it is at what it does."""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.chaos.commands import chaos, soak

_Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
_Seed = Annotated[int, typer.Option(help="The same seed makes the same fleet and arrivals.")]
_Loads = Annotated[str, typer.Option(help="Shares of what the fleet can carry at most.")]


def agent(
    rate: Annotated[float, typer.Option(min=1, max=100_000, help="Log lines a second.")] = 200,
    seconds: Annotated[float, typer.Option(min=2, max=3600, help="For how long.")] = 30,
    real_log: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A combined log (Apache, nginx) to parse too.")
    ] = None,
    json_output: _Json = False,
) -> None:
    """CPU and memory of an agent beside a busy host, and what the middleware adds to a request."""
    from benchmarks.agent import measure_agent
    from benchmarks.middleware import measure_middleware

    _print({**measure_agent(rate, seconds, real_log), "middleware": measure_middleware()}, json_output)


def proxy_agent(
    rate: Annotated[float, typer.Option(min=1, max=200_000, help="Log lines a second.")] = 100_000,
    seconds: Annotated[float, typer.Option(min=10, max=3600, help="For how long.")] = 60,
    hosts: Annotated[int, typer.Option(min=1, max=5000, help="Hosts of the proxy.")] = 500,
    categories: Annotated[int, typer.Option(min=1, max=26, help="Categories of each.")] = 20,
    json_output: _Json = False,
) -> None:
    """CPU and memory of the agent beside a proxy, for all of its hosts, and whether its counts are right."""
    from benchmarks.proxy_agent import measure_proxy_agent

    _print(measure_proxy_agent(rate, seconds, hosts, categories), json_output)


def attribution(
    hosts: Annotated[int, typer.Option(min=1, max=6, help="Demo hosts.")] = 3,
    seconds: Annotated[float, typer.Option(min=20, max=3600, help="For how long they are driven.")] = 180,
    rate: Annotated[float, typer.Option(min=1, max=500, help="Requests a second, on average.")] = 50,
    seed: Annotated[int, typer.Option(help="The same seed plans the same requests.")] = 1,
    json_output: _Json = False,
) -> None:
    """How well fingerprints know the CPU a request costs, against the same requests done alone."""
    from benchmarks.attribution import measure_attribution

    figures = measure_attribution(hosts, seconds, rate, seed, lambda text: typer.echo(text, err=True))
    if not json_output:
        _print_cells(figures.pop("cells"))
    _print(figures, json_output)


def envoy(
    hosts: Annotated[int, typer.Option(min=2, max=200, help="Sleeping hosts, of 4 slots each.")] = 20,
    seconds: Annotated[float, typer.Option(min=2, max=3600, help="For how long each policy meets each load.")] = 20,
    warm_up: Annotated[float, typer.Option(min=10, max=3600, help="For how long the fleet is learned, seconds.")] = 90,
    loads: _Loads = "0.3,0.7",
    policies: Annotated[
        str | None,
        typer.Option(help="With commas; without it Envoy's own, HAProxy's, nginx's, and ours by baseline and model."),
    ] = None,
    proxies: Annotated[int, typer.Option(min=1, max=10, help="Proxies that share the requests.")] = 1,
    failing: Annotated[float, typer.Option(min=0, max=1, help="Share of one host's requests that fail at once.")] = 0,
    log_only: Annotated[bool, typer.Option("--log-only", help="Hosts tell nothing but what proxies log.")] = False,
    predict: Annotated[bool, typer.Option("--predict", help="Also what `fingerpost worth` says of the log.")] = False,
    slo_ms: Annotated[float, typer.Option(min=1, help="The p99 that a load must keep to count as held.")] = 500,
    seed: _Seed = 1,
    json_output: _Json = False,
) -> None:
    """Real proxies before an emulated fleet: their own policies and ours, on the same arrivals.

    Ours routes as it is shipped: agents, engine and router run beside it, without a model and with one that is trained
    on all that was measured before.
    """
    from benchmarks.envoy import DEFAULT, Options, measure_envoy

    chosen = tuple(policies.split(",")) if policies else DEFAULT
    shares = tuple(float(load) for load in loads.split(","))
    options = Options(hosts, seconds, shares, chosen, slo_ms / 1000, seed, warm_up, proxies, failing, log_only, predict)
    _print(measure_envoy(options, lambda text: typer.echo(text, err=True)), json_output)


def exploration(
    requests: Annotated[int, typer.Option(min=1000, max=1_000_000, help="Requests of each run.")] = 12_000,
    load: Annotated[float, typer.Option(min=0.1, max=0.9, help="Load, as a part of what the fleet could serve.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of hosts and requests.")] = 1,
    json_output: _Json = False,
) -> None:
    """What ways of exploring cost, and how precise off-policy estimates are by them; simulated."""
    from benchmarks.exploration import measure_exploration

    found = measure_exploration(requests, load, seed)
    _print({f"{row['way']} {row['exploration']} {row['within']}": row for row in found}, json_output)


def zones(
    requests: Annotated[int, typer.Option(min=1000, max=1_000_000, help="Requests of each run.")] = 20_000,
    load: Annotated[float, typer.Option(min=0.1, max=0.95, help="Load, of what the fleet serves blindly.")] = 0.5,
    uneven: Annotated[float, typer.Option(min=1, max=100, help="Requests of the first zone for one of another.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of hosts and requests.")] = 1,
    json_output: _Json = False,
) -> None:
    """What staying in the proxy's zone costs, and how many requests leave it, by the zone's factor; simulated."""
    from benchmarks.zones import measure_zones

    found = measure_zones(requests, load, seed, uneven)
    _print({str(row["factor"]): row for row in found}, json_output)


def picker(
    seconds: Annotated[float, typer.Option(min=1, max=600, help="For how long each policy is loaded in a round.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Rounds, the policies in turn.")] = 30,
    json_output: _Json = False,
) -> None:
    """What a decision of the native picker costs, by itself and in Envoy beside least request."""
    from benchmarks.picker import measure_picker

    _print(measure_picker(seconds, rounds), json_output)


def page(
    hosts: Annotated[int, typer.Option(min=1, max=5000, help="Hosts of the fleet.")] = 1000,
    categories: Annotated[int, typer.Option(min=1, max=256, help="Categories of each.")] = 100,
    viewers: Annotated[int, typer.Option(min=1, max=100, help="People who look at the page.")] = 3,
    seconds: Annotated[float, typer.Option(min=4, max=3600, help="Length of each turn, without and with them.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Turns of each kind.")] = 20,
    looks: Annotated[int, typer.Option(min=0, max=50, help="Times that a browser opens it; needs Chromium.")] = 5,
    json_output: _Json = False,
) -> None:
    """What the page costs the engine, with reports and without; its bytes, and how soon a browser shows it."""
    from benchmarks.page import measure_page

    _print(measure_page(hosts, categories, viewers, seconds, rounds, looks), json_output)


def plain_logs(
    hosts: Annotated[int, typer.Option(min=2, max=20, help="Hosts, each behind an nginx.")] = 6,
    load: Annotated[float, typer.Option(min=0.05, max=0.95, help="Share of what the fleet can carry at most.")] = 0.5,
    warm_up: Annotated[float, typer.Option(min=20, max=3600, help="Traffic before the first phase, seconds.")] = 90,
    seconds: Annotated[float, typer.Option(min=20, max=3600, help="For how long each phase is measured.")] = 120,
    seed: Annotated[int, typer.Option(help="The same seed makes the same arrivals.")] = 1,
    slots: Annotated[bool, typer.Option(help="Tell agents how many requests a host serves at once.")] = True,
    json_output: _Json = False,
) -> None:
    """The documented path from nginx's logs alone, with shipped settings: baseline, first model, and later.

    Prediction and least request take turns of ten seconds on the same traffic.
    """
    from benchmarks.plain_logs import measure_plain_logs

    figures = measure_plain_logs(hosts, load, warm_up, seconds, seed, slots, lambda text: typer.echo(text, err=True))
    _print(figures, json_output)


def endpoint_picker(
    seconds: Annotated[float, typer.Option(min=1, max=600, help="For how long each is loaded.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Rounds, the doors in turn.")] = 3,
    rate: Annotated[float, typer.Option(min=1, max=10_000, help="Requests a second where latency is measured.")] = 300,
    json_output: _Json = False,
) -> None:
    """What the native picker and the endpoint picker add to a request, beside least request in the same Envoy."""
    from benchmarks.endpoint_picker import measure_endpoint_picker

    _print(measure_endpoint_picker(seconds, rounds, rate), json_output)


def guard(
    scenarios: Annotated[
        str, typer.Option(help="Names of files in simulator/scenarios, with commas.")
    ] = "mild-hosts,like-hosts,unlike-hosts",
    loads: _Loads = "0.5,0.65,0.8",
    absurd: Annotated[
        str, typer.Option(help="Numbers of hosts that are predicted ten times too fast; 0: predictions are true.")
    ] = "0,1,3,40",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Runs of each, with seeds 1, 2, ...")] = 5,
    untold: Annotated[bool, typer.Option("--untold", help="Hosts tell neither slots nor requests in flight.")] = False,
    json_output: _Json = False,
) -> None:
    """Simulated fleets with absurd predictions and the guard, beside least request and true predictions."""
    import json

    from benchmarks.guard import measure_guard

    def progress(each: Any) -> None:
        lost = f"{'  overloaded' if each.overloaded else ''}{'  peer overloaded' if each.peer_overloaded else ''}"
        typer.echo(
            f"{each.scenario:14} load {each.load:.2f} seed {each.seed:2} {each.predictions:10} p99 "
            f"{each.p99_s * 1000:7.1f} ms, least request {each.peer_p99_s * 1000:8.1f} ms, ratio {each.p99_ratio:.2f}, "
            f"gain kept {each.gain_kept:5.2f}, trust {each.trust:.2f}{lost}",
            err=json_output,
        )

    shares, counts = [float(load) for load in loads.split(",")], [int(count) for count in absurd.split(",")]
    found = measure_guard(scenarios.split(","), shares, counts, range(1, seeds + 1), not untold, progress)
    if json_output:
        typer.echo(json.dumps([each.as_dict() for each in found], indent=1))


def calibrate(
    classes: Annotated[str, typer.Option(help="Classes of demo hosts.")] = "compute,storage,general",
    rate: Annotated[float, typer.Option(min=1, max=200, help="Requests a second of the mixed traffic.")] = 60,
    seconds: Annotated[float, typer.Option(min=30, max=3600, help="For how long it lasts.")] = 120,
    saturated: Annotated[float, typer.Option(min=2, max=600, help="For how long each category saturates a host.")] = 6,
    seed: Annotated[int, typer.Option(help="The same seed makes the same traffic.")] = 1,
    json_output: _Json = False,
) -> None:
    """Capacities of a demo host for each category alone: by the engine's table, and as they are measured."""
    from benchmarks.calibrate import measure_calibration

    figures = measure_calibration(
        classes.split(","), rate, seconds, saturated, seed, lambda text: typer.echo(text, err=True)
    )
    _print(figures, json_output)


def cadence(
    hosts: Annotated[int, typer.Option(min=3, max=200, help="Hosts, of 8 slots, in three classes.")] = 12,
    loads: Annotated[str, typer.Option(help="Shares of what the fleet can carry at most before the change.")] = "0.4",
    slower: Annotated[float, typer.Option(min=1, max=100, help="How many times slower the first class becomes.")] = 5,
    policies: Annotated[str, typer.Option(help="`fingerpost` and others of the simulator.")] = (
        "least_request,least_request_full,fingerpost"
    ),
    kinds: Annotated[
        str, typer.Option(help="What predicts; `frozen`: the truth of before the change, `oracle`: always the truth.")
    ] = "baseline",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Runs of each, with seeds 1, 2, ...")] = 5,
    told: Annotated[bool, typer.Option("--told", help="Hosts tell their slots and requests in flight.")] = False,
    like: Annotated[bool, typer.Option("--like", help="Hosts do not differ before the change.")] = False,
    json_output: _Json = False,
) -> None:
    """A simulated class of hosts that becomes slower for a minute: p99 and shares of traffic, in spans since then."""
    import json

    from benchmarks.cadence import Seen, Trial, measure_cadence

    def progress(each: Seen) -> None:
        slow, back = (" ".join(f"{1000 * value:6.0f}" for value in values) for values in (each.slow_s, each.back_s))
        to_slow = " ".join(f"{share:.2f}" for share in each.shares[0])
        typer.echo(
            f"load {each.load:.2f} seed {each.seed:2} {each.policy:18} {each.kind:9} "
            f"p99 {1000 * each.before_s:5.0f} slow {slow} recovered {back} ms, traffic of the slow class {to_slow}",
            err=json_output,
        )

    wanted = [
        Trial(policy, kind if policy == "fingerpost" else "", float(load), seed)
        for load in loads.split(",")
        for seed in range(1, seeds + 1)
        for policy in policies.split(",")
        for kind in (kinds.split(",") if policy == "fingerpost" else [""])
    ]
    found = measure_cadence(wanted, hosts, slower, told, like, progress)
    if json_output:
        typer.echo(json.dumps([each.as_dict() for each in found], indent=1))


def anticipate(
    scenario: Annotated[str, typer.Option(help="Names in simulator/scenarios/anticipation, with commas; all.")] = "",
    loads: _Loads = "0.6,0.8",
    pickers: Annotated[str, typer.Option(help="Numbers of pickers.")] = "1,10",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Runs of each, with seeds 1, 2, ...")] = 5,
    predictors: Annotated[str, typer.Option(help="Those to run.")] = "clairvoyant,average,baseline,learned",
    pictures: Annotated[
        Path | None, typer.Option(help="Only draw a picture of each scenario into this folder, of seed 1.")
    ] = None,
    json_output: _Json = False,
) -> None:
    """Simulated fleets in which something can be anticipated: what foresight is worth, and what ours has of it."""
    import json

    from benchmarks.anticipate import Seen, as_json, measure_anticipation, names

    def progress(each: Seen) -> None:
        typer.echo(
            f"{each.scenario:12} load {each.load:.2f} pickers {each.pickers:3} seed {each.seed} "
            f"{each.predictor:11} {each.setting:4.0f} s  p99 {1000 * each.p99_s:6.0f} ms, "
            f"as spells begin {1000 * each.spell_p99_s:6.0f} ms",
            err=True,
        )

    wanted = scenario.split(",") if scenario else list(names())
    if pictures:
        from benchmarks.anticipation_pictures import write_pictures

        write_pictures(wanted, 1, pictures, lambda text: typer.echo(text, err=True))
        return
    found = measure_anticipation(
        wanted,
        [float(load) for load in loads.split(",")],
        [int(count) for count in pickers.split(",")],
        range(1, seeds + 1),
        predictors.split(","),
        progress,
    )
    if json_output:
        typer.echo(json.dumps(as_json(found), indent=1))
        return
    for row in as_json(found)["rows"]:
        typer.echo("  ".join(f"{name} {value}" for name, value in row.items()))


def llm(
    loads: Annotated[str, typer.Option(help="Shares of what the pool can serve.")] = "0.6,0.8",
    pickers: Annotated[str, typer.Option(help="Numbers of pickers that know nothing of each other.")] = "1,10",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Runs of each, with seeds 1, 2, ...")] = 5,
    policies: Annotated[str, typer.Option(help="Those to run, see simulator/llm.py; `learned` too.")] = (
        "random,least_request,active_request,token_load,queue_and_cache,known,fingerpost,streamed"
    ),
    arrivals: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A trace, TIMESTAMP,ContextTokens,GeneratedTokens; else drawn."),
    ] = None,
    json_output: _Json = False,
) -> None:
    """A simulated pool of unlike accelerators that serve language models: time to the first token, ours and others'."""
    import json

    from benchmarks.llm import Run, as_json, measure_llm

    def progress(run: Run) -> None:
        typer.echo(
            f"load {run.load:.2f} pickers {run.pickers:3} seed {run.seed} {run.policy:15} "
            f"first token p50 {run.seen.first_p50_s:6.2f} p99 {run.seen.first_p99_s:7.2f} s, "
            f"last p99 {run.seen.end_p99_s:7.2f} s",
            err=True,
        )

    found = measure_llm(
        [float(load) for load in loads.split(",")],
        [int(count) for count in pickers.split(",")],
        range(1, seeds + 1),
        policies.split(","),
        arrivals,
        progress,
    )
    if json_output:
        typer.echo(json.dumps(as_json(found), indent=1))
        return
    for row in as_json(found)["rows"]:
        typer.echo("  ".join(f"{name} {value}" for name, value in row.items()))


def foresight(
    cause: Annotated[str, typer.Option(help="What slows hosts down: jobs or credits.")] = "jobs",
    warm_up: Annotated[float, typer.Option(min=20, max=3600, help="Seconds of random routing at first.")] = 150,
    seconds: Annotated[float, typer.Option(min=10, max=3600, help="For how long each policy routes.")] = 120,
    load: Annotated[float, typer.Option(min=0.1, max=0.95, help="Share of what the fleet can carry at most.")] = 0.6,
    seed: Annotated[int, typer.Option(help="Of the fleet and its requests.")] = 1,
    json_output: _Json = False,
) -> None:
    """Real Envoy, agents and engine: hosts that slow down by a rule, by least request, the baseline and a model."""
    from benchmarks.foresight import Options, measure_foresight

    options = Options(cause, warm_up, seconds, load, seed)
    _print(measure_foresight(options, lambda text: typer.echo(text, err=True)), json_output)


def unlike(
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Runs of each, with seeds 1, 2, ...")] = 3,
    json_output: _Json = False,
) -> None:
    """Simulated fleets from alike to unlike by category: what predictive routing gains over least request."""
    import json

    from benchmarks.unlike import fleets, measure_unlike

    found = measure_unlike(fleets(), range(1, seeds + 1), lambda line: typer.echo(line, err=json_output))
    if json_output:
        typer.echo(json.dumps(found, indent=1))


def sinkhole(
    hosts: Annotated[int, typer.Option(min=2, max=50, help="Sleeping hosts, of 8 slots each; one of them fails.")] = 10,
    rates: Annotated[str, typer.Option(help="Requests a second.")] = "20,100",
    shares: Annotated[str, typer.Option(help="Shares of its requests that the host fails.")] = "0.5,0.9,1",
    after_ms: Annotated[str, typer.Option(help="How long a failure takes, milliseconds.")] = "1,300",
    policies: Annotated[
        str, typer.Option(help="least_request_plain: least request without outlier ejection.")
    ] = "fingerpost,least_request,least_request_plain",
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="All hosts fail at one category, a fifth of the traffic, in its place.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=2, max=3600, help="For how long it fails.")] = 120,
    warm_up: Annotated[float, typer.Option(min=2, max=3600, help="For how long all hosts are well, seconds.")] = 60,
    seed: _Seed = 1,
    json_output: _Json = False,
) -> None:
    """Errors that clients see when one host fails its requests faster than the others answer.

    Ours routes by the engine's table, without a model: an agent for every host reads Envoy's log, with the settings as
    they are shipped.
    """
    from benchmarks.sinkhole import measure_sinkhole, trials

    rates_s, failing, after_s = ([float(value) for value in text.split(",")] for text in (rates, shares, after_ms))
    wanted = trials(rates_s, failing, [value / 1000 for value in after_s], everywhere)
    figures = measure_sinkhole(
        hosts, wanted, policies.split(","), seconds, warm_up, seed, lambda text: typer.echo(text, err=True)
    )
    _print(figures, json_output)


def scoring(
    hosts: Annotated[int, typer.Option(min=1, max=10_000, help="Hosts of the fleet.")] = 1000,
    categories: Annotated[int, typer.Option(min=1, max=4096, help="Categories of the service.")] = 100,
    json_output: _Json = False,
) -> None:
    """Cells predicted a CPU-second, features included."""
    import os

    os.environ["OMP_NUM_THREADS"] = "1"
    from benchmarks.engine_scoring import measure_scoring

    _print(measure_scoring(hosts, categories), json_output)


def _print_cells(cells: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "host", "category", "requests", "alone", "middleware", "regression", title="CPU-milliseconds a request"
    )
    for cell in cells:
        alone, middleware, regression = (cell[f"{way}_s"] * 1000 for way in ("alone", "middleware", "regression"))
        table.add_row(
            *(cell["host"], cell["category"], str(cell["requests"]), f"{alone:.2f}"),
            f"{middleware:.2f} ({middleware / alone - 1:+.0%})",
            f"{regression:.2f} ± {cell['regression_error_s'] * 1000:.2f} ({regression / alone - 1:+.0%})",
        )
    Console().print(table)


def services(
    services: Annotated[int, typer.Option(min=1, max=200, help="Services that report.")] = 20,
    seconds: Annotated[float, typer.Option(min=60, max=86_400, help="For how long, once all are scheduled.")] = 300,
    json_output: _Json = False,
) -> None:
    """CPU of MLflow, Prefect and the flows of many services, at default schedules, with new requests every minute."""
    from benchmarks.services import measure_services

    _print(measure_services(services, seconds), json_output)


def windowing(
    records: Annotated[int, typer.Option(min=1000, max=50_000_000, help="Request records.")] = 2_000_000,
    json_output: _Json = False,
) -> None:
    """Request records a second that become windows."""
    from benchmarks.windowing import measure_windowing

    _print(measure_windowing(records), json_output)


def training(
    hosts: Annotated[int, typer.Option(min=2, max=10_000, help="Hosts of the made fleet.")] = 1000,
    categories: Annotated[int, typer.Option(min=1, max=256, help="Categories of its service.")] = 100,
    days: Annotated[int, typer.Option(min=1, max=30, help="Days of its history.")] = 7,
    windows: Annotated[int, typer.Option(min=10, max=8640, help="Windows of 10 s that are made of each day.")] = 48,
    json_output: _Json = False,
) -> None:
    """Seconds and memory of features, tuning, training and registration of a fleet, with the shipped defaults."""
    from benchmarks.training import measure_training

    _print(measure_training(hosts, categories, days, windows), json_output)


def correction(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A lake, or foreign telemetry.")],
    window: Annotated[float, typer.Option(min=1, max=3600, help="Length of windows, seconds.")] = 10,
    halflives: Annotated[str, typer.Option(help="After so many seconds an error counts half.")] = "60,300,1200",
    json_output: _Json = False,
) -> None:
    """Skill of a model whose predictions are corrected between trainings by their errors so far, beside its own."""
    import json

    from benchmarks.correction import measure_correction

    seconds = [float(each) for each in halflives.split(",")]
    rows = measure_correction(folder, window, seconds, lambda text: typer.echo(text, err=True))
    typer.echo("\n".join(json.dumps(row) for row in rows) if not json_output else json.dumps(rows, indent=1))


def fits(
    rows: Annotated[int, typer.Option(min=1000, max=10_000_000, help="Training rows.")] = 1_000_000,
    columns: Annotated[int, typer.Option(min=2, max=500, help="Features.")] = 40,
    json_output: _Json = False,
) -> None:
    """Seconds to fit the boosters of all targets."""
    from benchmarks.training import measure_fits

    _print(measure_fits(rows, columns), json_output)


def engine(
    hosts: Annotated[int, typer.Option(min=1, max=10_000, help="Hosts of the fleet that is scored.")] = 1000,
    categories: Annotated[int, typer.Option(min=1, max=4096, help="Categories of its service.")] = 100,
    reporting: Annotated[int, typer.Option(min=1, max=5000, help="Hosts that report every 5 s.")] = 2000,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="Length of each measurement.")] = 10,
    json_output: _Json = False,
) -> None:
    """Scoring, ingest, freshness, table fetches, a model swap under load, and memory."""
    import os

    os.environ["OMP_NUM_THREADS"] = "1"
    from benchmarks.engine import measure_engine

    _print(measure_engine(hosts, categories, reporting, seconds), json_output)


def churn(
    minutes: Annotated[int, typer.Option(min=10, max=10_000, help="Simulated time, minutes.")] = 180,
    minute_s: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds in which a minute is run through.")] = 1.0,
    json_output: _Json = False,
) -> None:
    """Memory of an engine while hosts and categories come and go."""
    from benchmarks.engine_churn import measure_churn

    _print(measure_churn(minutes, minute_s), json_output)


def wire(
    hosts: Annotated[int, typer.Option(min=1, max=5000, help="Agents that report to one engine worker.")] = 2000,
    categories: Annotated[int, typer.Option(min=1, max=1000, help="Categories of a host, for its bytes.")] = 100,
    seconds: Annotated[float, typer.Option(min=5, max=3600, help="For how long they report, each every 5 s.")] = 60,
    json_output: _Json = False,
) -> None:
    """Bytes a host sends in a day, and an engine that takes and lands the windows of many agents."""
    from benchmarks.wire import measure_wire

    _print(measure_wire(hosts, categories, seconds), json_output)


def experiments(
    rate: Annotated[float, typer.Option(min=10, max=100_000, help="Requests a second.")] = 100,
    runs: Annotated[int, typer.Option(min=10, max=10_000, help="Experiments with an effect, of each kind.")] = 400,
    null_runs: Annotated[int, typer.Option(min=10, max=20_000, help="Experiments without, of each kind.")] = 2000,
    watches: Annotated[int, typer.Option(min=10, max=10_000, help="Watched promotions of each kind.")] = 200,
    json_output: _Json = False,
) -> None:
    """Experiments and watches on made time slices: how often the product's rules are right, and how soon."""
    from benchmarks.experiments import measure_experiments

    found = measure_experiments(rate, runs, null_runs, watches, lambda text: typer.echo(text, err=True))
    _print(found, json_output)


def _print(figures: dict[str, Any], json_output: bool) -> None:
    import json

    if json_output:
        typer.echo(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        typer.echo(f"{name:20} {value}")


app = typer.Typer(help="Measures what the program itself costs, and how good it is.", no_args_is_help=True)
for _command in (
    agent,
    anticipate,
    foresight,
    attribution,
    cadence,
    calibrate,
    envoy,
    experiments,
    exploration,
    page,
    picker,
    guard,
    llm,
    unlike,
    sinkhole,
    scoring,
    services,
    windowing,
    training,
    correction,
    fits,
    engine,
    zones,
    churn,
    wire,
    chaos,
    soak,
):
    app.command()(_command)
app.command(name="plain-logs")(plain_logs)
app.command(name="proxy-agent")(proxy_agent)
app.command(name="endpoint-picker")(endpoint_picker)

if __name__ == "__main__":
    from fingerpost.cli import run

    run(app)
