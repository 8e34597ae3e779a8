"""The sample's traffic: what the simulator's fleet served, with what clients and services add to it.

The simulator decides when requests come, where they go, how long they wait and take, and which are lost. Who asks, how
large a request is and which answers are errors of the application is drawn here.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.sample_decisions import Decision, decisions
from data.sample_run import (
    BEGIN_US,
    HOSTS,
    KINDS,
    RTT_S,
    SERVICE,
    SLOTS,
    STEP_S,
    run_sample,
    sample_experiment,
    sample_scenario,
)
from fingerpost.accesslog.fields import route_of
from fingerpost.arrays import Floats, Ints
from fingerpost.client_attributes import auth_method, coarse_region, user_agent_class
from fingerpost.clock import US
from fingerpost.experiment import Experiment
from fingerpost.simulator.scenario import Scenario, hosts_of
from fingerpost.simulator.simulation import Chunk

_PATIENCE_S = 6.0
_NO_ANSWER, _GAVE_UP, _APP_ERROR, _NOT_FOUND, _BAD_REQUEST = 503, 499, 500, 404, 400
_ERROR_SHARE, _SICK_ERROR_SHARE, _NOT_FOUND_SHARE, _BAD_SHARE = 0.003, 0.03, 0.008, 0.004
_BASE_MEMORY, _REQUEST_MEMORY, _MEMORY_LIMIT = 210 * 2**20, 24 * 2**20, 2 * 2**30
_BACKGROUND_CORES = 0.03

Frame = pd.DataFrame

_AGENTS = {
    "browser": (
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0 Safari/537.36",
    ),
    "mobile": ("Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (KHTML, like Gecko) Mobile Safari/537.36",),
    "service": ("billing-service/2.4",),
    "library": ("python-httpx/0.28.1",),
    "bot": ("Mozilla/5.0 (compatible; examplebot/1.0; +https://example.com/bot)",),
}
# What clients are beside their kind's own class: too few for a category of their own.
_BOT_SHARE, _ABROAD_SHARE = 0.004, 0.006
_HOME, _ABROAD = "DE", ("FR", "US", "JP")


@dataclass(frozen=True)
class Traffic:
    """What was served.

    Args:
        requests: a row a request, in order of `time`: the columns of request records, and what only logs tell:
            `start_us`, `duration_us`, `service_us` (-1: unknown), `residence_us` (on the host), `arrived_us` (there),
            `path`, `query`, `user_agent`, `auth_scheme`, `api_key`, `cookie`, `country`, `client`, `explored`, `table`,
            `kind`, `retried`. Times in whole microseconds.
        samples: host samples, in order of `time`.
        experiment: whose arms routed.
    """

    requests: Frame
    samples: Frame
    experiment: Experiment
    end_us: int


def make_traffic(seed: int, minutes: float) -> Traffic:
    """Simulates the fleet and its clients; the same arguments give the same traffic.

    Args:
        minutes: how long, 2 to 60.

    Raises:
        ValueError: `minutes` is out of its range.
    """
    if not 2 <= minutes <= 60:
        raise ValueError(f"minutes is {minutes:g}: use 2 to 60")
    scenario = sample_scenario(minutes)
    experiment = sample_experiment(scenario)
    chunks, tables = run_sample(scenario, seed, experiment)
    made = decisions(scenario, chunks, tables)
    requests = _requests(scenario, chunks, made, experiment, np.random.default_rng([seed, 21]))
    samples = _samples(chunks, requests, np.random.default_rng([seed, 22]))
    return Traffic(requests, samples, experiment, BEGIN_US + round(scenario.duration_s * US))


def _requests(
    scenario: Scenario, chunks: list[Chunk], made: list[Decision], experiment: Experiment, rng: np.random.Generator
) -> Frame:
    records = [chunk.records for chunk in chunks]
    sent, ended, work, host, kind, found, lost = (
        np.concatenate([getattr(each, name) for each in records])
        for name in ("sent_s", "time_s", "service_time_s", "host", "category", "inflight", "error")
    )
    order = np.argsort(sent, kind="stable")
    sent, ended, work, host, kind, found, lost = (each[order] for each in (sent, ended, work, host, kind, found, lost))
    count = len(sent)
    frame = pd.DataFrame(
        {"host": np.array(HOSTS)[host], "kind": kind, "work_s": work, "retried": [d.retried for d in made]}
    )
    retried = frame["retried"].to_numpy(bool)
    # The proxy takes the request in, and hands the answer on.
    around_us = np.round(rng.lognormal(np.log(400), 0.4, count)).astype(np.int64)
    residence_us = np.round((ended - sent - np.where(retried, 2, 1) * RTT_S) * US).astype(np.int64)
    sent_us = BEGIN_US + np.floor(sent * US).astype(np.int64)
    rtt_us = round(RTT_S * US)
    frame["arrived_us"] = sent_us + np.where(retried, rtt_us, 0) + rtt_us // 2
    frame["residence_us"] = residence_us
    service_us = residence_us + rtt_us
    start_us = sent_us - around_us // 2
    duration_us = service_us + np.where(retried, rtt_us, 0) + around_us
    gave_up = duration_us > _PATIENCE_S * US
    duration_us = np.where(gave_up, round(_PATIENCE_S * US), duration_us)
    frame["status"] = _statuses(scenario, frame, sent, lost, gave_up, rng)
    answered = ~(gave_up | lost)
    frame["start_us"], frame["duration_us"] = start_us, duration_us
    frame["time"] = start_us + duration_us
    frame["service_us"] = np.where(gave_up, -1, service_us)
    # Told by the host with its answer.
    frame["inflight"] = np.where(answered, found, np.nan)
    share = np.array([each.cpu_share for each in KINDS])[kind]
    cpu_s = np.round(np.minimum(work * share * rng.lognormal(0, 0.08, count), work), 6)
    frame["cpu_s"] = np.where(answered, cpu_s, np.nan)
    _add_clients(frame, rng)
    _add_decisions(frame, made, experiment)
    frame["service"] = SERVICE
    frame["duration_s"] = frame["duration_us"] / US
    frame["service_time_s"] = (frame["service_us"] / US).where(frame["service_us"] >= 0)
    return frame.sort_values(["time", "start_us"], kind="stable", ignore_index=True)


def _statuses(
    scenario: Scenario,
    frame: Frame,
    sent: Floats,
    lost: NDArray[np.bool_],
    gave_up: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Ints:
    sick = scenario.antagonists[0]
    troubled = (frame["host"] == HOSTS[hosts_of(sick)[0]]) & (sent >= sick.at_s)
    drawn = rng.random(len(frame))
    posts = np.array([kind.method == "POST" for kind in KINDS])[frame["kind"]]
    named = np.array(["{id}" in kind.path for kind in KINDS])[frame["kind"]]
    status = np.full(len(frame), 200)
    status = np.where(~posts & named & (drawn > 1 - _NOT_FOUND_SHARE), _NOT_FOUND, status)
    status = np.where(posts & (drawn > 1 - _BAD_SHARE), _BAD_REQUEST, status)
    status = np.where(drawn < np.where(troubled, _SICK_ERROR_SHARE, _ERROR_SHARE), _APP_ERROR, status)
    # A host that stops answers what is on it with 503.
    status = np.where(lost, _NO_ANSWER, status)
    return np.where(gave_up & ~lost, _GAVE_UP, status).astype(np.int64)


def _add_clients(frame: Frame, rng: np.random.Generator) -> None:
    """Who asked, for what, and how much was sent."""
    count = len(frame)
    kinds = [KINDS[number] for number in frame["kind"]]
    ids = rng.integers(1000, 100_000, count)
    frame["method"] = [kind.method for kind in kinds]
    frame["path"] = [kind.path.replace("{id}", str(number)) for kind, number in zip(kinds, ids, strict=True)]
    frame["query"] = [kind.query for kind in kinds]
    frame["route"] = [route_of(path) for path in frame["path"]]
    least, most = (np.array([kind.size[end] for kind in kinds], dtype=np.float64) for end in (0, 1))
    drawn = np.exp(
        np.log(np.maximum(least, 1)) + rng.random(count) * np.log(np.maximum(most, 1) / np.maximum(least, 1))
    )
    frame["bytes_in"] = np.where(most > 0, np.round(drawn), 0).astype(np.int64)
    good = frame["status"].to_numpy() == 200
    answer = np.array([kind.answer for kind in kinds]) * rng.lognormal(0, 0.25, count)
    frame["bytes_out"] = np.where(good, np.round(answer), np.where(frame["status"] == _GAVE_UP, 0, 62)).astype(np.int64)
    anonymous = np.array([kind.auth == "none" for kind in kinds])
    bot = anonymous & (rng.random(count) < _BOT_SHARE)
    classes = np.where(bot, "bot", [kind.agent for kind in kinds])
    which = rng.integers(0, 1000, count)
    agents = [_AGENTS[name][number % len(_AGENTS[name])] for name, number in zip(classes, which, strict=True)]
    frame["user_agent"] = agents
    frame["user_agent_class"] = [user_agent_class(agent) for agent in agents]
    auth = [kind.auth for kind in kinds]
    frame["auth_scheme"] = np.where([each == "bearer" for each in auth], "Bearer", "")
    frame["api_key"] = [each == "api-key" for each in auth]
    frame["cookie"] = [each == "cookie" for each in auth]
    frame["auth"] = [
        auth_method(scheme or None, key, cookie)
        for scheme, key, cookie in zip(frame["auth_scheme"], frame["api_key"], frame["cookie"], strict=True)
    ]
    inside = np.array([kind.agent == "service" for kind in kinds])
    abroad = np.array(_ABROAD)[rng.integers(0, len(_ABROAD), count)]
    country = np.where(inside, "", np.where(rng.random(count) < _ABROAD_SHARE, abroad, _HOME))
    frame["country"] = country
    frame["region"] = [coarse_region(each or None) for each in country]
    # Ranges that are set aside for documentation.
    outside = [f"203.0.113.{number}" for number in rng.integers(1, 255, count)]
    frame["client"] = np.where(inside, "198.51.100.7", outside)


def _add_decisions(frame: Frame, made: list[Decision], experiment: Experiment) -> None:
    frame["policy"] = "fingerpost"
    frame["arm"] = [each.arm for each in made]
    frame["model_version"] = [experiment.version_of(each.arm) for each in made]
    frame["table"] = [each.table for each in made]
    frame["explored"] = [each.explored for each in made]
    # With as many digits as the picker writes.
    frame["propensity"] = [float(f"{each.propensity:.6g}") if each.propensity else np.nan for each in made]
    frame["predicted_cost"] = [float(f"{each.cost:.6g}") for each in made]


def _samples(chunks: list[Chunk], requests: Frame, rng: np.random.Generator) -> Frame:
    """What an agent beside each host measures once a second; of a host that is stopped, nothing."""
    spans = chunks[:-1]
    edges: Floats = np.arange(len(spans) + 1, dtype=np.float64) * STEP_S
    parts = []
    for number, host in enumerate(HOSTS):
        up = np.array([chunk.samples.up[number] for chunk in spans])
        inflight = np.array([chunk.samples.inflight[number] for chunk in spans])
        busy = np.diff(_cpu_until(requests[requests["host"] == host], edges)) / STEP_S
        noise = rng.lognormal(0, 0.1, (2, len(spans)))
        cores = float(SLOTS[number])
        leak = np.arange(len(spans)) * 12_000
        memory = _BASE_MEMORY * (1 + number / 10) + leak + inflight * _REQUEST_MEMORY * noise[0]
        parts.append(
            pd.DataFrame(
                {
                    # Of the second that ends then.
                    "time": BEGIN_US + np.round(edges[1:] * US).astype(np.int64) - 1000,
                    "service": SERVICE,
                    "host": host,
                    "cpu_util": np.round(np.minimum((busy + _BACKGROUND_CORES * noise[1]) / cores, 1.0), 4),
                    "cores": cores,
                    "mem_bytes": np.round(memory / 4096).astype(np.int64) * 4096,
                    "mem_limit_bytes": _MEMORY_LIMIT,
                    "inflight": inflight,
                    "slots": SLOTS[number],
                }
            )[up]
        )
    return pd.concat(parts).sort_values(["time", "host"], ignore_index=True)


def _cpu_until(requests: Frame, edges_s: Floats) -> Floats:
    """CPU-seconds used up to each time; a request uses its own evenly while it is served, at the end of its stay."""
    known = requests[requests["cpu_s"].notna() & (requests["work_s"] > 0)]
    ended = (known["arrived_us"] + known["residence_us"] - BEGIN_US).to_numpy() / US
    work, cpu_s = known["work_s"].to_numpy(), known["cpu_s"].to_numpy()
    used = np.zeros(len(edges_s))
    for place, edge in enumerate(edges_s):
        used[place] = (cpu_s * np.clip((edge - (ended - work)) / work, 0.0, 1.0)).sum()
    return used
