"""The stages of the story: what the page says while each is under way, and what it showed at the end of each."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.demo.progress import Progress
from fingerpost.cli.hosts import ask_engine
from fingerpost.engine_api import checked, get_call
from fingerpost.errors import FingerpostError
from fingerpost.serving.page.stage import Stage


@dataclass(frozen=True)
class Plan:
    """A stage before it has begun.

    Args:
        now: what happens.
        look: what to look at, in which of the page's panels (`panel`).
    """

    title: str
    now: str
    look: str
    panel: str


START = Plan(
    "the parts start",
    "Six kinds of work on hosts of three classes, an agent beside each, Envoy before them, the engine and the router. "
    "Agents report windows of 3 s; the engine predicts from them at once, without any model: the baseline.",
    "Hosts and kinds of work appear as they are first reported; yellow is the best host of a column.",
    "fleet",
)
DRIVE = Plan(
    "traffic, routed by the baseline and by least request in turns",
    "Clients send bursts of requests. At first, in turns of 2 s, drawn at random, each goes to the host that the "
    "baseline predicts to be best, or where Envoy's least request sends it. MLflow, which keeps the models, and "
    "Prefect, which runs the flows, start meanwhile. In the end least request routes alone: a model's choices can only "
    "be tested where several hosts served the same.",
    "What each host is good at. storage-1 has a job besides that makes it twelve times slower for 6 s every 30 s.",
    "fleet",
)
DRIVE_ONLY = Plan(
    "traffic, routed by least request",
    "Clients send bursts of requests, from which the first model is to learn. MLflow, which keeps the models, and "
    "Prefect, which runs the flows, start meanwhile.",
    "What each host is good at. storage-1 has a job besides that makes it twelve times slower for 6 s every 30 s.",
    "fleet",
)
TRAIN = Plan(
    "the first model",
    "Flows take the reports into the lake, make features of them, tune and train a model, and register it. It is "
    "tested on the latest quarter of the time, which it has not seen.",
    "Each flow with how long it took; the model appears as champion in panel Model.",
    "pipeline",
)
SIDE_BY_SIDE = Plan(
    "predicted routing beside least request, by turns",
    "The model routes now, and takes turns of 2 s with Envoy's least request on the same traffic.",
    "By who routed: `fingerpost` is the prediction. Its p99 should be the lower one.",
    "traffic",
)
DRIFT = Plan(
    "drift, and a new version",
    "The drift flow compares what is measured now with what the model learned from, names the cells that changed, and "
    "has a new version trained.",
    "Errors by predictor: what expects the past is off. The new version appears as challenger in panel Model.",
    "predictions",
)
SHADOW = Plan(
    "the new version in the shadow",
    "The challenger predicts for every window beside the champion, and routes nothing. After half a minute both are "
    "compared by what followed.",
    "Errors of champion and challenger, window by window.",
    "predictions",
)
EXPERIMENT = Plan(
    "champion against challenger, by switchback",
    "Both versions route in slots of time, in an order that is drawn. The confidence sequence narrows pair by pair and "
    "may be looked at any time.",
    "The experiment under way, and its interval.",
    "model",
)
PROMOTE = Plan(
    "promotion, and what it brought",
    "Every gate is asked; if all agree, the new version is the champion. The one before keeps some slots for a while, "
    "to judge the promotion by.",
    "The decision with its gates; latency in panel Traffic.",
    "model",
)
BAD = Plan(
    "a bad version, and the gates",
    "Somebody puts up a version that takes fast hosts for slow ones. It predicts in the shadow, as every challenger; "
    "then the gates are asked.",
    "The challenger's error. Afterwards, the decision and why.",
    "predictions",
)
LET_THROUGH = Plan(
    "the bad version let through, and the watch",
    "Somebody promotes the bad version past the gates. The watch compares it with the version before, which still has "
    "half of the slots.",
    "Latency rises; then the watch rolls the promotion back.",
    "traffic",
)
OVER = Plan(
    "the story is over",
    "Everything goes on: clients are gone, flows run on their schedules. Ctrl-C where the demo was started stops it.",
    "Decisions, with their gates.",
    "model",
)


def change_plan(host_class: str, kind: str, times: float) -> Plan:
    """The stage in which hosts become slower at what they were best at."""
    return Plan(
        f"{host_class} hosts become {times:g} times slower at {kind}",
        f"Nobody tells the platform: it has to see it. The hosts of class {host_class} were the best at {kind}.",
        f"The fields of the {host_class} hosts at {kind} turn dark within seconds, and requests go elsewhere.",
        "fleet",
    )


@dataclass
class Told:
    """The story so far.

    Args:
        chapters: its stages with their beginnings and ends, seconds since 1970.
        pages: the page's numbers at the end of each; None where the engine did not give them.
        found: what was found, by name; for machines.
        said: the same in sentences, by the title of the stage.
    """

    chapters: list[tuple[Plan, float, float]] = field(default_factory=list)
    pages: list[dict[str, Any] | None] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=dict)


class Stages:
    """Goes through the stages, on the page and in the terminal.

    Args:
        path: the file that the page is told the present stage by.
        of: how many stages there will be.
        ask: gives the page's numbers, which are kept; None: it cannot.
    """

    def __init__(self, path: Path, of: int, ask: Callable[[], dict[str, Any] | None], progress: Progress) -> None:
        self._path, self._of, self._ask, self._progress = path, of, ask, progress
        self._number = 0
        self.told = Told()

    @contextmanager
    def stage(self, plan: Plan) -> Iterator[None]:
        """One stage; what has been found when it ends well is kept with the numbers of the page."""
        begun = time.time()
        self._write(plan, begun)
        with self._progress.phase(plan.title):
            yield
        self.told.chapters.append((plan, begun, time.time()))
        self.told.pages.append(self._ask())

    def over(self) -> None:
        """Tells the page that the story is over."""
        self._write(OVER, time.time())

    def say(self, *sentences: str) -> None:
        """What the present stage, or the one that has just ended, has found."""
        title = self._title
        self.told.said.setdefault(title, []).extend(sentences)

    def note(self, text: str) -> None:
        """What the present stage is at, for the terminal."""
        self._progress.note(text)

    def _write(self, plan: Plan, begun_s: float) -> None:
        self._title = plan.title
        self._number = min(self._number + 1, self._of)
        found = [line for lines in reversed(self.told.said.values()) for line in lines]
        Stage(self._number, self._of, plan.title, plan.now, plan.look, plan.panel, begun_s, found).write(self._path)


def numbers_of(engine_url: str) -> dict[str, Any] | None:
    """The page's numbers as the engine gives them; None: it does not."""
    try:
        found = json.loads(checked(ask_engine(engine_url, "", get_call("/v1/page"))).body)
    except (FingerpostError, ValueError):
        return None
    return found if isinstance(found, dict) and "fleet" in found else None


def has_table(page: dict[str, Any] | None, hosts: int) -> bool:
    """Whether a predicted table of so many hosts is on the page."""
    picture = page["fleet"]["picture"] if page else None
    return picture is not None and len(picture["hosts"]) >= hosts and page is not None and bool(page["answers"]["best"])
