"""Runs the demo after the first model: routing by it, a fleet that changes, a new version, and a bad one."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from examples.demo import stages, words
from examples.demo.classes import DemoHost
from examples.demo.load import WAVE_S
from examples.demo.measured import figures, job_figures, of_policies, requests_between, without_beginnings
from examples.demo.processes import Layout, demo_module, example_module, router_environment, variables
from examples.demo.stages import Plan, Stages
from examples.demo.warm import Run, Warm
from fingerpost.cli.stack.parts import fingerpost
from fingerpost.cli.stack.processes import Child, ProcessGroup
from fingerpost.errors import FingerpostError
from fingerpost.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    import pandas as pd

_SETTLED_S = 2.0
# The arm of each turn is drawn: with few turns a wave might have only one of them.
_TURN_S, _WASHOUT_S = 2, 0.5
# The change: what becomes how many times slower, and where.
SLOW_CLASS, SLOW_KIND, SLOW_TIMES = "general", "render", 8.0
# To be called worse in the shadow takes eight blocks of 3 s that all say so, and the engine some seconds to load it.
_SHADOW_S = 30.0
_FLOW_S, _DRIFT_S, _EXPERIMENT_S, _WATCH_S = 240.0, 300.0, 400.0, 300.0
_POLL_S = 2.0
# A promotion that somebody forced is watched for twenty turns of two slices of 3 s.
_FORCED_WATCH_S = 130
# Stages from here on: with the bad version let through, one more.
STAGES = 7


class Story:
    """Goes on where the first champion serves; `tell` returns once all has happened.

    Args:
        stages: where it is told, stage by stage.
        warm: runs the flows.
        skip_gates: also lets the bad version through, for the watch to take it back.
    """

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        hosts: list[DemoHost],
        stack: ProcessGroup,
        stages: Stages,
        warm: Warm,
        skip_gates: bool,
    ) -> None:
        self._settings, self._layout, self._hosts = settings, layout, hosts
        self._stack, self._stages, self._warm, self._skip_gates = stack, stages, warm, skip_gates
        self._router: Child | None = None
        self._promoted_s = 0.0
        self._tested: Run | None = None
        self._bad: Run | None = None

    def begin_turns(self) -> None:
        """Starts the router: what predicts, the baseline at first, and least request take turns."""
        self._route(arm_shares='{"fingerpost": 0.5, "least_request": 0.5}', arm_by="time", arm_seconds=str(_TURN_S))

    def spread(self) -> None:
        """Has least request route alone: where one host gets all, a model's choice has nothing to be compared with."""
        self._route(arm_shares='{"least_request": 1}')

    def compare_baseline(self, since_s: float) -> None:
        """Tells how the baseline did beside least request in the latest whole waves since a time."""
        now = time.time()
        waves = max(1, int((now - since_s) // WAVE_S))
        found = self._by_turns(now - waves * WAVE_S, now)
        self._found["baseline_beside"] = found
        self._stages.say(*words.side_by_side(found, "the baseline"))

    def tell(self) -> None:
        """Tells the whole story.

        Raises:
            FingerpostError: a step did not come to what it must; the message says which.
        """
        changes = stages.change_plan(SLOW_CLASS, SLOW_KIND, SLOW_TIMES)
        self._stage(stages.SIDE_BY_SIDE, self._side_by_side)
        self._stage(changes, self._change)
        self._stage(stages.DRIFT, self._notice_drift)
        self._stage(stages.SHADOW, self._shadow)
        self._stage(stages.EXPERIMENT, self._experiment)
        self._stage(stages.PROMOTE, self._promote)
        self._stage(stages.BAD, self._bad_version)
        self._found["job"] = self._job()
        self._stages.say(words.job(self._found["job"]))
        if self._skip_gates:
            self._stage(stages.LET_THROUGH, self._let_through)

    def send(self, rate: float) -> None:
        """Starts the clients of the story, `rate` requests a second on average."""
        command = ("load", "--url", f"http://{self._settings.reach_host}:{self._settings.envoy_port}")
        self._stack.start("clients", demo_module(*command, "--seconds", "3600", "--rate", str(rate), "--seed", "2"))

    @property
    def _found(self) -> dict[str, Any]:
        return self._stages.told.found

    def _stage(self, plan: Plan, act: Callable[[], None]) -> None:
        with self._stages.stage(plan):
            act()

    def _route(self, guard: bool = True, **changes: str) -> None:
        """Starts the router, or starts it anew with other settings; the picker goes on with the table there is."""
        if self._router:
            self._stack.end(self._router)
        log = ["--access-log", str(self._layout.access_log)] if guard else []
        self._router = self._stack.start("router", fingerpost("router", *log), router_environment(changes))

    def _by_turns(self, begin_s: float, end_s: float) -> dict[str, Any]:
        requests = self._requests(begin_s, end_s)
        requests = without_beginnings(requests, "arm", _WASHOUT_S)
        return {arm: _figures(requests[requests["arm"] == arm]) for arm in ("fingerpost", "least_request")}

    def _side_by_side(self) -> None:
        self.begin_turns()
        self._pass(_SETTLED_S + WAVE_S)
        now = time.time()
        self._found["side_by_side"] = found = self._by_turns(now - WAVE_S, now)
        self._stages.say(*words.side_by_side(found, "the model"))
        self._route()

    def _change(self) -> None:
        for host in self._hosts:
            if host.host_class == SLOW_CLASS:
                url = f"http://{LOOPBACK}:{host.port}/fingerpost/times"
                httpx.put(url, json={SLOW_KIND: SLOW_TIMES}, timeout=10, trust_env=False).raise_for_status()
        before = self._found["side_by_side"]["fingerpost"]
        self._found["change"] = {"before": before, "just_after": self._wave()}
        self._stages.say(*words.change(before, self._found["change"]["just_after"], SLOW_KIND))

    def _notice_drift(self) -> None:
        found: dict[str, Any] = {}

        def noticed() -> bool:
            found.update(self._flow("ingest", "features", "drift"))
            self._stages.note(found["champion"]["verdict"])
            return bool(found["champion"]["verdict"] == "drift")

        self._repeat(noticed, _DRIFT_S, "the drift report finds nothing in a fleet that has changed")
        champion = found["champion"]
        if found["training"] is None:
            # The report may find drift before a training is due: the demo does not wait for the night.
            found["training"] = self._flow("train")["model_version"]
        cells = [f"{each['host']} {each['category']}" for each in champion["cells"]]
        self._found["drift"] = {"reasons": champion["reasons"], "cells": cells, "trained": str(found["training"])}
        self._stages.say(*words.drift(self._found["drift"]))

    def _shadow(self) -> None:
        report: dict[str, Any] = {}

        def told() -> bool:
            report.update(self._flow("ingest", "features", "shadow"))
            return bool(report["status"] != "insufficient")

        self._pass(_SHADOW_S)
        self._repeat(told, _FLOW_S, "the shadow tells nothing")
        self._found["shadow"] = {name: report[name] for name in ("status", "reason", "versions")}
        self._stages.say(*words.shadow(self._found["shadow"]))
        # The drift flow also tests the data that the new version was trained on, which takes some that came since; to
        # train again would be too soon.
        self._tested = self._begin("drift", retrain_pause_s="3600")

    def _experiment(self) -> None:
        def over() -> bool:
            found.update(self._flow("ingest", "experiment"))
            self._stages.note(f"{found['action']}: {found['why']}")
            return bool(found["action"] in ("stopped", "none"))

        found: dict[str, Any] = {}
        self._repeat(over, _EXPERIMENT_S, "the experiment is not over")
        assert self._tested is not None  # noqa: S101
        self._warm.finish(self._tested, _FLOW_S)
        names = ("verdict", "rule", "why", "pairs", "planned", "effects")
        self._found["experiment"] = {name: found.get(name) for name in names}
        self._stages.say(*words.experiment(self._found["experiment"]))

    def _promote(self) -> None:
        decided = self._flow("promote")["decision"]
        if decided is None or decided["action"] != "promote":
            raise FingerpostError(f"the new version was not promoted: {decided and decided['reason']}")
        self._promoted_s = time.time()
        # It is made in the meantime, and put up when the promotion is watched no longer.
        self._bad = self._warm.begin("bad-version", example_module("examples.demo.bad_version"))
        self._found["promotion"] = {
            **{name: decided[name] for name in ("version", "previous", "reason", "record")},
            "afterwards": self._wave(decided["version"]),
        }
        self._stages.say(*words.promotion(self._found["promotion"]))

    def _bad_version(self) -> None:
        # The version before has its turns while the promotion is watched: the bad one waits until that is over.
        self._pass(max(self._promoted_s + self._settings.watch_s - time.time(), 0.0))
        assert self._bad is not None  # noqa: S101
        version = self._warm.finish(self._bad, _FLOW_S).split()[-1]
        self._warm.run("bad-version", example_module("examples.demo.bad_version", version), _FLOW_S)
        # Every other request goes by least request: both are then seen around the same jobs.
        self._route(arm_shares='{"fingerpost": 0.5, "least_request": 0.5}')
        decided: dict[str, Any] = {}

        def judged() -> bool:
            decided.update(self._flow("ingest", "features", "shadow", "promote")["decision"] or {})
            self._stages.note(str(decided.get("reason", "")))
            return decided.get("action") in ("reject", "promote")

        self._pass(_SHADOW_S)
        self._repeat(judged, _FLOW_S, f"the gates have not judged version {version}")
        self._found["bad_version"] = {"version": version, "action": decided["action"], "reason": decided["reason"]}
        self._stages.say(*words.bad_version(self._found["bad_version"]))
        if decided["action"] != "reject":
            raise FingerpostError(f"the gates did not stop version {version}: {decided['reason']}")
        self._route()

    def _job(self) -> dict[str, Any]:
        """Where requests go around the job of the one host that has one, by the new version and by least request."""
        version = self._found["promotion"]["version"]
        requests = self._requests(self._stages.told.chapters[0][1], time.time())
        host = next(each for each in self._hosts if each.job)
        assert host.job is not None  # noqa: S101
        found = {name: job_figures(of, host.name, host.job) for name, of in of_policies(requests, version).items()}
        return {"host": host.name, "version": version, "every_s": host.job.every_s, "for_s": host.job.for_s, **found}

    def _let_through(self) -> None:
        version = self._found["bad_version"]["version"]
        # The guard would correct the bad predictions before the watch has seen what they do.
        self._route(guard=False)
        promote = fingerpost("promote", version, "--skip-gates", "--reason", "somebody was in a hurry")
        self._warm.run("promote", promote, _FLOW_S, variables({"watch_s": str(_FORCED_WATCH_S)}))
        begun = time.time()
        found: dict[str, Any] = {}

        def taken_back() -> bool:
            found.update(self._flow("ingest", "promote")["watch"] or {})
            self._stages.note(f"{found.get('state')}: {found.get('reason')}")
            return found.get("state") in ("rolled back", "kept")

        self._repeat(taken_back, _WATCH_S, "the watch has not ended")
        self._found["let_through"] = {
            "state": found["state"],
            "reason": found["reason"],
            "seconds": round(time.time() - begun, 1),
            "champion": found["previous"],
        }
        self._stages.say(*words.let_through(self._found["let_through"]))
        if found["state"] != "rolled back":
            raise FingerpostError(f"the watch kept the bad version {version}: {found['reason']}")

    def _wave(self, version: str | None = None) -> dict[str, Any]:
        """What clients see in the next whole wave of the traffic, of the requests that a version routed or of all."""
        self._pass(_SETTLED_S + WAVE_S)
        now = time.time()
        found = self._requests(now - WAVE_S, now)
        return _figures(found if version is None else found[found["model_version"] == version])

    def _requests(self, begin_s: float, end_s: float) -> "pd.DataFrame":
        return requests_between(self._layout.access_log, self._settings.service, begin_s, end_s)

    def _begin(self, *names: str, **changes: str) -> Run:
        """Has flows run one after another in one process, with changed settings."""
        output = str(self._output(names[-1]))
        return self._warm.begin(names[-1], fingerpost("run", *names, "--output", output), variables(changes))

    def _flow(self, *names: str, **changes: str) -> dict[str, Any]:
        """As `_begin`, and waits; the result of the last flow."""
        self._warm.finish(self._begin(*names, **changes), _FLOW_S)
        result: dict[str, Any] = json.loads(self._output(names[-1]).read_text())
        return result

    def _output(self, flow: str) -> Path:
        return self._layout.home / f"{flow}.json"

    def _repeat(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise FingerpostError(f"{what} after {timeout_s:.0f} s")
            self._pass(_POLL_S)

    def _pass(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._stack.wait_until(lambda: time.monotonic() >= until, seconds + 60, "time does not pass")


def _figures(requests: "pd.DataFrame") -> dict[str, Any]:
    """Of all requests, and of those of the kind that becomes slower."""
    return {**figures(requests), SLOW_KIND: figures(requests[requests["route"] == f"/work/{SLOW_KIND}"])}
