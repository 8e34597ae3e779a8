"""What predictions cost: cells scored a CPU-second, features included."""

import time
from dataclasses import replace
from typing import Any

from tests.support.made_fleet import FORM, MadeFleet, fit_model

# About what training ends with on real telemetry.
TREES, LEAVES = 120, 24


def measure_scoring(hosts: int, categories: int) -> dict[str, Any]:
    """Cells scored a CPU-second, features included, three targets, a model of realistic size; and a refresh after 10 %
    of the hosts have told of another window, or of nothing new."""
    from fingerpost.serving.fleet_state import build_fleet
    from fingerpost.serving.scoring import ModelScorer, score_fleet

    fleet = MadeFleet.make(hosts, categories)
    model = fit_model(MadeFleet.make(60, categories), TREES, LEAVES)
    began = time.process_time()
    scorer = ModelScorer.compiled(model, "1", FORM)
    compiled = time.process_time() - began
    states = fleet.states(1)
    state = build_fleet("shop", states, 4096)
    clocks = []
    for _ in range(3):
        began = time.process_time()
        scored = score_fleet(state, scorer)
        clocks.append(time.process_time() - began)
    fresh = fleet.states(2)
    later = {host: fresh[host] for host in fleet.hosts[::10]}
    repeated = {
        host: replace(fresh[host], fingerprint=replace(each.fingerprint, history=states[host].fingerprint.history))
        for host, each in later.items()
    }
    spent = {}
    for name, changed in (("window", later), ("repeated", repeated)):
        began = time.process_time()
        after = score_fleet(build_fleet("shop", {**states, **changed}, 4096, state), scorer, scored)
        spent[name] = (after.cells, round(time.process_time() - began, 3))
    return {
        "cells": scored.cells,
        "trees": TREES,
        "leaves": LEAVES,
        "cells_per_cpu_s": round(scored.cells / min(clocks)),
        "compile_cpu_s": round(compiled, 2),
        "after_windows_of_a_tenth": dict(zip(("cells", "cpu_s"), spent["window"], strict=True)),
        "after_nothing_new_of_a_tenth": dict(zip(("cells", "cpu_s"), spent["repeated"], strict=True)),
    }
