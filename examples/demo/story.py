"""Runs the demo after the first model: routing by it, a fleet that changes, a new version, and a bad one."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from examples.demo.classes import DemoHost
from examples.demo.measured import figures, job_figures, of_policies, requests_between, without_beginnings
from examples.demo.processes import Layout, demo_module, example_module, router_environment, routing_envoy, variables
from examples.demo.progress import Progress
from fingerpost.cli.stack.parts import answers, fingerpost
from fingerpost.cli.stack.processes import Child, ProcessGroup
from fingerpost.errors import FingerpostError
from fingerpost.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    import pandas as pd

# Traffic breathes in waves of 40 s: spans that are to be compared hold whole ones.
_WAVE_S, _SETTLED_S = 40.0, 2.0
_SIDE_BY_SIDE_S, _SLOT_S, _WASHOUT_S = _WAVE_S, 5, 1.0
# The change: what becomes how many times slower, and where.
SLOW_CLASS, SLOW_KIND, SLOW_TIMES = "general", "render", 8.0
# To be called worse in the shadow takes eight blocks of 3 s that all say so, and the engine some seconds to load it.
_SHADOW_S, _BAD_S = 30.0, 60.0
_FLOW_S, _EXPERIMENT_S, _WATCH_S = 240.0, 400.0, 300.0
_POLL_S = 6.0


@dataclass
class Told:
    """The story so far: chapters with their beginnings and ends (seconds since 1970), and what each found."""

    chapters: list[tuple[str, float, float]] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)


class Story:
    """Goes on where the first champion serves; `tell` returns what happened, also as pictures in a page.

    Args:
        skip_gates: also lets the bad version through, for the watch to take it back.
    """

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        hosts: list[DemoHost],
        stack: ProcessGroup,
        progress: Progress,
        rate: float,
        skip_gates: bool,
    ) -> None:
        self._settings, self._layout, self._hosts = settings, layout, hosts
        self._stack, self._progress = stack, progress
        self._rate, self._skip_gates = rate, skip_gates
        self._router: Child | None = None
        self._promoted_s = 0.0
        self.told = Told()

    def tell(self, envoy: Child) -> Told:
        """Tells the whole story.

        Raises:
            FingerpostError: a step did not come to what it must; the message says which.
        """
        self._stack.end(envoy)
        self._start_routing()
        self._chapter("predicted routing beside least request, by turns", self._side_by_side)
        self._chapter(f"{SLOW_CLASS} hosts become {SLOW_TIMES:g} times slower at {SLOW_KIND}", self._change)
        self._chapter("drift, and a new version", self._notice_drift)
        self._chapter("the new version in the shadow", self._shadow)
        self._chapter("champion against challenger, by switchback", self._experiment)
        self._chapter("promotion, and what it brought", self._promote)
        self._chapter("a bad version, and the gates", self._bad_version)
        self.told.found["job"] = self._job()
        if self._skip_gates:
            self._chapter("the bad version let through, and the watch", self._let_through)
        return self.told

    def _start_routing(self) -> None:
        settings = self._settings
        part = routing_envoy(settings, self._layout, self._hosts)
        self._stack.start("envoy", part.command, part.env)
        self._wait(lambda: answers(part.health_url), 60, "Envoy does not answer")
        self._route(arm_shares='{"fingerpost": 0.5, "least_request": 0.5}', arm_by="time", arm_seconds=str(_SLOT_S))
        command = ("load", "--url", part.address, "--seconds", "3600", "--rate", str(self._rate), "--seed", "2")
        self._stack.start("clients", demo_module(*command))

    def _route(self, guard: bool = True, **changes: str) -> None:
        """Starts the router, or starts it anew with other settings; the picker goes on with the table there is."""
        if self._router:
            self._stack.end(self._router)
        log = ["--access-log", str(self._layout.access_log)] if guard else []
        self._router = self._stack.start("router", fingerpost("router", *log), router_environment(changes))

    def _side_by_side(self) -> None:
        self._pass(_SETTLED_S + _SIDE_BY_SIDE_S)
        now = time.time()
        requests = requests_between(self._layout.access_log, self._settings.service, now - _SIDE_BY_SIDE_S, now)
        requests = without_beginnings(requests, "arm", _WASHOUT_S)
        self.told.found["side_by_side"] = {
            arm: _figures(requests[requests["arm"] == arm]) for arm in ("fingerpost", "least_request")
        }
        self._route()

    def _change(self) -> None:
        for host in self._hosts:
            if host.host_class == SLOW_CLASS:
                url = f"http://{LOOPBACK}:{host.port}/fingerpost/times"
                httpx.put(url, json={SLOW_KIND: SLOW_TIMES}, timeout=10, trust_env=False).raise_for_status()
        before = self.told.found["side_by_side"]["fingerpost"]
        self.told.found["change"] = {"before": before, "just_after": self._wave()}

    def _notice_drift(self) -> None:
        found = self._flow("ingest", "features", "drift")
        champion = found["champion"]
        if champion["verdict"] != "drift":
            raise FingerpostError(f"the drift report says {champion['verdict']!r} of a fleet that has changed")
        if found["training"] is None:
            # The report may find drift before a training is due: the demo does not wait for the night.
            found["training"] = self._flow("train")["model_version"]
        cells = [f"{each['host']} {each['category']}" for each in champion["cells"]]
        self.told.found["drift"] = {"reasons": champion["reasons"], "cells": cells, "trained": str(found["training"])}

    def _shadow(self) -> None:
        self._pass(_SHADOW_S)
        # The drift flow also tests the data that the new version was trained on; to train again would be too soon.
        report = self._flow("ingest", "features", "drift", "shadow", retrain_pause_s="3600")
        self.told.found["shadow"] = {
            "status": report["status"],
            "reason": report["reason"],
            "versions": report["versions"],
        }

    def _experiment(self) -> None:
        def over() -> bool:
            found.update(self._flow("ingest", "experiment"))
            self._progress.note(f"{found['action']}: {found['why']}")
            return bool(found["action"] in ("stopped", "none"))

        found: dict[str, Any] = {}
        self._repeat(over, _EXPERIMENT_S, "the experiment is not over")
        names = ("verdict", "rule", "why", "pairs", "planned", "effects")
        self.told.found["experiment"] = {name: found.get(name) for name in names}

    def _promote(self) -> None:
        decided = self._flow("promote")["decision"]
        if decided is None or decided["action"] != "promote":
            raise FingerpostError(f"the new version was not promoted: {decided and decided['reason']}")
        self._promoted_s = time.time()
        self.told.found["promotion"] = {
            **{name: decided[name] for name in ("version", "previous", "reason", "record")},
            "afterwards": self._wave(decided["version"]),
        }

    def _bad_version(self) -> None:
        # The version before has its turns while the promotion is watched: the bad one waits until that is over.
        self._pass(max(self._promoted_s + self._settings.watch_s - time.time(), 0.0))
        child = self._stack.start("bad-version", example_module("examples.demo.bad_version"))
        self._stack.finish(child, _FLOW_S)
        version = child.output().split()[-1]
        # Every other request goes by least request: both are then seen around the same jobs.
        self._route(arm_shares='{"fingerpost": 0.5, "least_request": 0.5}')
        self._pass(_BAD_S)
        decided = self._flow("ingest", "features", "shadow", "promote")["decision"]
        self.told.found["bad_version"] = {
            "version": version,
            "action": decided["action"],
            "reason": decided["reason"],
        }
        if decided["action"] != "reject":
            raise FingerpostError(f"the gates did not stop version {version}: {decided['reason']}")
        self._route()

    def _job(self) -> dict[str, Any]:
        """Where requests go around the job of the one host that has one, by the new version and by least request."""
        log, service, version = self._layout.access_log, self._settings.service, self.told.found["promotion"]["version"]
        requests = requests_between(log, service, self.told.chapters[0][1], time.time())
        host = next(each for each in self._hosts if each.job)
        assert host.job is not None  # noqa: S101
        found = {name: job_figures(of, host.name, host.job) for name, of in of_policies(requests, version).items()}
        return {"host": host.name, "version": version, "every_s": host.job.every_s, "for_s": host.job.for_s, **found}

    def _let_through(self) -> None:
        version = self.told.found["bad_version"]["version"]
        # The guard would correct the bad predictions before the watch has seen what they do.
        self._route(guard=False)
        self._command("promote", "promote", version, "--skip-gates", "--reason", "somebody was in a hurry")
        begun = time.time()
        found: dict[str, Any] = {}

        def taken_back() -> bool:
            found.update(self._flow("ingest", "promote")["watch"] or {})
            self._progress.note(f"{found.get('state')}: {found.get('reason')}")
            return found.get("state") in ("rolled back", "kept")

        self._repeat(taken_back, _WATCH_S, "the watch has not ended")
        self.told.found["let_through"] = {
            "state": found["state"],
            "reason": found["reason"],
            "seconds": round(time.time() - begun, 1),
            "champion": found["previous"],
        }
        if found["state"] != "rolled back":
            raise FingerpostError(f"the watch kept the bad version {version}: {found['reason']}")

    def _chapter(self, title: str, act: Callable[[], None]) -> None:
        begun = time.time()
        with self._progress.phase(title):
            act()
        self.told.chapters.append((title, begun, time.time()))

    def _wave(self, version: str | None = None) -> dict[str, Any]:
        """What clients see in the next whole wave of the traffic, of the requests that a version routed or of all."""
        self._pass(_SETTLED_S + _WAVE_S)
        now = time.time()
        found = requests_between(self._layout.access_log, self._settings.service, now - _WAVE_S, now)
        return _figures(found if version is None else found[found["model_version"] == version])

    def _flow(self, *names: str, **changes: str) -> dict[str, Any]:
        """Runs flows one after another in one process, with changed settings; the result of the last."""
        output = self._layout.home / f"{names[-1]}.json"
        self._command(names[-1], "run", *names, "--output", str(output), **changes)
        result: dict[str, Any] = json.loads(output.read_text())
        return result

    def _command(self, name: str, *arguments: str, **changes: str) -> None:
        self._stack.finish(self._stack.start(name, fingerpost(*arguments), variables(changes)), _FLOW_S)

    def _repeat(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise FingerpostError(f"{what} after {timeout_s:.0f} s")
            self._pass(_POLL_S)

    def _pass(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._wait(lambda: time.monotonic() >= until, seconds + 60, "time does not pass")

    def _wait(self, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        self._stack.wait_until(ready, timeout_s, what)


def _figures(requests: "pd.DataFrame") -> dict[str, Any]:
    """Of all requests, and of those of the kind that becomes slower."""
    return {**figures(requests), SLOW_KIND: figures(requests[requests["route"] == f"/work/{SLOW_KIND}"])}
