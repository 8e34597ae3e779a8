"""Takes the pictures of docs/page.md: `python -m docs.make_page_pictures`, in a checkout, with Chromium.

An engine of its own is told of the windows of a made-up fleet: 12 hosts of three classes, a model, request records.
`--url URL` takes them of a page that is served already, such as that of a running demo; `--out FOLDER` puts them
elsewhere.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fingerpost.agent.batches import write_batch
from fingerpost.cli.stack.ports import free_ports
from fingerpost.clock import US, clock_us
from fingerpost.features.ingest import ingest
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD
from tests.support.browser import Watched, running_browser
from tests.support.engine_harness import RunningEngine
from tests.support.made_fleet import MadeFleet, fit_model, register_model
from tests.support.page_feed import feed_windows, note_flows, page_numbers
from tests.support.records import record, sample

_PLACE = Path(__file__).with_name("pictures")
_HOSTS = tuple(f"{kind}-{number}" for number in range(1, 5) for kind in ("compute", "memory", "storage"))
_ROUTES = (
    *("GET /products/*", "GET /search", "POST /cart", "POST /checkout"),
    *("GET /images/*", "POST /uploads", "GET /reports/*"),
)
_WINDOWS = 36
_PANELS = ("fleet", "traffic", "predictions", "model", "worth", "pipeline")


def main() -> None:
    """Takes one picture of each panel."""
    parser = argparse.ArgumentParser(prog="python -m docs.make_page_pictures", description=__doc__)
    parser.add_argument("--url", help="address of a page that is served already, such as http://127.0.0.1:3001")
    parser.add_argument("--out", type=Path, default=_PLACE, help="folder of the pictures")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.url:
        with running_browser() as browser:
            take_pictures(Watched(browser, asked.url.rstrip("/")), asked.out)
    else:
        of_made_fleet(asked.out)


def of_made_fleet(folder: Path) -> None:
    """Pictures of the made-up fleet, at an engine of their own."""
    (port,) = free_ports(1)
    made = MadeFleet.make(len(_HOSTS), len(_ROUTES))
    # Names in order, as a fleet has them: classes go by the place.
    made = replace(made, hosts=_HOSTS, categories=tuple(sorted(f"{route}|1K|bearer|browser|DE" for route in _ROUTES)))
    with tempfile.TemporaryDirectory() as home, RunningEngine(Path(home), port, fingerprint_ttl_s=900) as engine:
        url = engine.env["FINGERPOST_MLFLOW_URL"]
        register_model(fit_model(made, 20, 8), url, "fingerpost-shop")
        note_flows(engine)
        _records(engine.home / "lake")
        feed_windows(engine, made, _WINDOWS)
        engine.wait_for(lambda: page_numbers(engine)["traffic"]["arms"], 60)
        with running_browser() as browser:
            take_pictures(Watched(browser, engine.url), folder)


def take_pictures(watched: Watched, folder: Path) -> None:
    """Writes `page-PANEL.png` of each panel; of the first with one field over time."""
    # A machine that runs a whole demo is busy.
    watched.page.set_default_timeout(60_000)
    watched.open()
    watched.page.wait_for_selector("#heat .main-svg")
    watched.page.click("#cell-show")
    watched.page.wait_for_selector("#cell-title")
    for panel in _PANELS:
        watched.choose(panel)
        watched.page.wait_for_timeout(500)
        path = folder / f"page-{panel}.png"
        watched.page.screenshot(path=path, full_page=True)
        # A third of the size, and nobody sees it.
        Image.open(path).convert("RGB").quantize(96).save(path, optimize=True)


def _records(lake: Path) -> None:
    """Request records of the last half hour: mostly predicted, some by least request."""
    rng, now_us = np.random.default_rng(3), clock_us()
    rows = []
    for at_s in np.sort(rng.uniform(60, 1800, 6000)).tolist():
        predicted = bool(rng.random() < 0.9)
        explored = predicted and bool(rng.random() < 0.03)
        took_s = float(rng.lognormal(-4.2 if predicted else -3.8, 0.7 if predicted else 0.9))
        chosen = {"propensity": 0.01 if explored else 0.97} if predicted else {"propensity": 0.25}
        policy = "fingerpost" if predicted else "least_request"
        rows.append(record(time=now_us - round(at_s * US), host=_HOSTS[0], duration_s=took_s, policy=policy, **chosen))
    write_batch(lake, "samples", HOST_SAMPLE, [sample(host=_HOSTS[0])], "made-1")
    write_batch(lake, "requests", REQUEST_RECORD, rows, "made-1")
    ingest(lake, "shop", 5, 86_400)


if __name__ == "__main__":
    main()
