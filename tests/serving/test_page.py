"""The engine's page in a real browser: it shows the API's numbers, hostile names as text, and what is away."""

import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import httpx
import pytest

from benchmarks.page import look
from fingerpost.cli.stack.ports import free_ports
from fingerpost.serving.page.frozen import frozen_now
from fingerpost.serving.page.stage import Stage
from tests.support.browser import Watched, running_browser
from tests.support.engine_harness import RunningEngine
from tests.support.made_fleet import MadeFleet
from tests.support.page_feed import feed_windows, note_flows, page_numbers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

HOSTILE = (
    "GET /<img src=x onerror=alert(1)>|1K|none|browser|DE",
    'GET /<a href="https://example.org/">click</a>|1K|none|browser|DE',
    "GET /</script><script>alert(2)</script>|1K|none|browser|DE",
    "GET /\u202etxt.exe & $x$|1K|none|other|DE",
)
WINDOWS = 4


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    home, (port,) = tmp_path_factory.mktemp("page"), free_ports(1)
    with RunningEngine(home, port, fingerprint_ttl_s=900, mlflow_url="") as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with running_browser() as found:
        yield found


@pytest.fixture
def watched(browser, engine):
    found = Watched(browser, engine.url)
    yield found
    found.page.close()


@pytest.fixture(scope="module")
def fed(engine):
    """The page's numbers once a fleet of hostile categories has told of some windows."""
    made = MadeFleet.make(5, len(HOSTILE) + 2)
    note_flows(engine)
    feed_windows(engine, replace(made, categories=(*sorted(HOSTILE), *made.categories[:2])), WINDOWS)
    return engine.wait_for(lambda: (found := page_numbers(engine))["pipeline"]["flows"] and found, 20)


def test_an_engine_without_hosts_says_so_plainly(watched):
    watched.open()
    watched.expect("#state").to_contain_text("live, engine")
    assert "No host has reported yet" in watched.text("#answer-best")
    assert "none has reported" in watched.text("#answer-wrong")
    for panel, said in {
        "fleet": "No host has reported yet",
        "traffic": "No window has ended yet",
        "predictions": "Nothing to compare yet",
        "model": "No decision was made yet",
        "worth": "it takes a minute of traffic",
        "pipeline": "No flow has run yet",
    }.items():
        watched.choose(panel)
        assert said in watched.text(f"#{panel}")
    assert watched.errors == watched.elsewhere == []


def test_each_panel_shows_the_number_of_the_api(engine, fed, watched):
    assert page_numbers(engine, service="unknown")["fleet"]["known"] == 0
    watched.open()
    watched.page.wait_for_selector("#heat .main-svg")
    assert watched.figure("fleet-ok") == str(fed["fleet"]["states"]["ok"]) == "5"
    best = fed["answers"]["best"][0]
    assert "times as fast as the median host" in best
    assert best in watched.text("#answer-best")

    watched.page.select_option("#cell-host", "h0002")
    watched.page.select_option("#cell-category", index=1)
    category = watched.page.input_value("#cell-category")
    watched.page.click("#cell-show")
    watched.page.wait_for_selector("#cell-chart .main-svg")
    cell = page_numbers(engine, "/v1/page/cell", service="shop", host="h0002", category=category)
    assert watched.figure("cell-throughput") == f"{cell['now']['throughput_rps']:g}"
    assert len(cell["times"]) == len(cell["measured"]["latency_p50_s"]) == WINDOWS - 1

    watched.choose("traffic")
    assert watched.figure("traffic-rate") == f"{fed['traffic']['rate_rps']:g}"
    assert f"{fed['traffic']['split'][0]['requests_hour']:g}" in watched.text("#traffic")
    watched.choose("predictions")
    assert watched.figure("windows") == str(fed["predictions"]["windows"]) == str(WINDOWS - 1)
    assert watched.figure("predicts") == "baseline"
    off = fed["predictions"]["errors"]["served"]["throughput_rps"]
    assert f"{off * 100:.1f}".rstrip("0").rstrip(".") + " %" in watched.text("#predictions table")
    watched.choose("model")
    assert "promote version 2 (champion 1)" in watched.text("#model")
    watched.choose("worth")
    assert watched.figure("worth-bound") == f"{fed['worth']['bound_rps']:g}"
    assert watched.figure("worth-cores") == f"{fed['worth']['cores_saved']:g} of {fed['worth']['cores']:g}"
    watched.choose("pipeline")
    assert watched.figure("host-agents") == str(fed["pipeline"]["reporters"]["host agents"]) == "5"
    assert "OSError: no room" in watched.text("#pipeline")
    # How much later than planned ingest began.
    assert "7 s" in watched.text("#pipeline table tr:has-text('ingest')")
    assert "flow train failed: OSError: no room" in watched.text("#answer-wrong")
    with engine.client() as client:
        client.table("shop", picker="router/edge-1")
    watched.expect("#pipeline").to_contain_text("edge-1")
    assert "router beside Envoy" in watched.text("#pipeline tr:has-text('edge-1')")
    assert (
        'picker_table_age_seconds{kind="router",picker="edge-1",service="shop"}'
        in httpx.get(f"{engine.url}/metrics", timeout=20, trust_env=False).text
    )
    assert watched.page.get_attribute("#pipeline a", "href") == "http://127.0.0.1:4200/runs/flow-run/1"
    assert watched.errors == watched.elsewhere == []


def test_names_from_outside_stay_text(fed, watched):
    assert set(HOSTILE) <= set(fed["fleet"]["picture"]["categories"])
    watched.open()
    watched.page.wait_for_selector("#heat .main-svg")
    assert "\uff1cimg" in watched.text("#heat")
    watched.choose("traffic")
    shown = watched.text("#traffic")
    for name in HOSTILE[:3]:
        assert name.partition("|")[0] in shown.replace("\n", " ")
    assert "\\u{202e}txt.exe" in shown
    watched.choose("pipeline")
    assert "<b>done</b>" in watched.text("#pipeline")
    assert watched.page.locator("main img, main script, main b:not([data-figure]), a[href*='example.org']").count() == 0
    assert watched.errors == watched.elsewhere == []


def test_the_page_of_an_engine_elsewhere_is_shown_on_this_machine(engine, fed, browser, tmp_path):
    (port,) = free_ports(1)
    story = tmp_path / "stage.json"
    command = [sys.executable, "-m", "fingerpost", "page", "--engine-url", engine.url, "--port", str(port)]
    command += ["--story", str(story)]
    stage = Stage(2, 9, "traffic", "<b>Clients</b> send.", "Who routes.", "traffic", time.time() - 5 * 3600, ["1 < 2"])
    stage.write(story)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            assert url in process.stdout.readline()
            watched = Watched(browser, url)
            wait_for(lambda: httpx.get(url).is_success)
            watched.open()
            watched.expect("#state").to_contain_text("live, engine")
            watched.page.wait_for_selector("#heat .main-svg")
            assert watched.figure("fleet-ok") == str(fed["fleet"]["states"]["ok"])
            watched.expect("#stage").to_contain_text("2 of 9: traffic for 5 h")
            assert "<b>Clients</b> send." in watched.text("#stage")
            assert "1 < 2" in watched.text("#stage")
            watched.page.click("#stage button")
            assert watched.page.is_visible("#traffic")
            story.write_text('{"number": "many"}')
            watched.expect("#stage").to_be_hidden()
            stage.write(story)
            watched.expect("#stage").to_be_visible()
            story.unlink()
            watched.expect("#stage").to_be_hidden()
            assert watched.errors == watched.elsewhere == []
            watched.page.close()
            assert httpx.get(f"{url}/v1/hosts").status_code == 404
            assert httpx.get(url, headers={"host": "example.org"}).status_code == 400
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0


def test_a_story_is_told_before_its_engine_answers(browser, tmp_path):
    port, nobody = free_ports(2)
    story = tmp_path / "stage.json"
    Stage(1, 9, "the parts start", "An engine starts.", "", "fleet", time.time()).write(story)
    command = [
        sys.executable,
        "-m",
        "fingerpost",
        "page",
        "--engine-url",
        f"http://127.0.0.1:{nobody}",
        "--port",
        str(port),
    ]
    with subprocess.Popen(
        [*command, "--story", str(story)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            assert url in process.stdout.readline()
            wait_for(lambda: httpx.get(url).is_success)
            watched = Watched(browser, url)
            watched.open()
            watched.expect("#stage").to_contain_text("1 of 9: the parts start")
            watched.expect("#banner").to_have_text("The engine starts: it does not answer yet.")
            watched.page.close()
        finally:
            process.terminate()


def test_the_page_is_frozen_into_one_file_that_draws_what_it_drew(engine, fed, browser, tmp_path):
    path = tmp_path / "frozen.html"
    command = [sys.executable, "-m", "fingerpost", "page", "--engine-url", engine.url, "--freeze", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True)
    assert str(path) in done.stdout
    watched = Watched(browser, path.as_uri())
    watched.open("")
    watched.page.wait_for_selector("#heat .main-svg")
    shown = watched.text("main")
    for name in ("Fleet", "Traffic", "Predictions", "Model", "Worth", "Pipeline"):
        assert f"{name}, as of" in shown
    assert fed["answers"]["best"][0] in shown
    assert watched.figure("worth-bound")
    assert "promote version 2 (champion 1)" in shown
    assert "<b>done</b>" in shown
    assert watched.page.locator("#worth-chart .main-svg, #error-chart .main-svg, #latency-chart .main-svg").count() >= 3
    assert watched.page.locator("main img, main b:not([data-figure]), a[href*='example.org']").count() == 0
    assert watched.errors == watched.elsewhere == []
    watched.page.close()


def test_an_experiment_is_drawn_as_a_confidence_sequence_that_narrows(fed, browser, tmp_path):
    effect = {"metric": "latency_geomean_s", "champion": 0.02, "challenger": 0.018, "unit": "ratio"}
    found = {"latency_geomean_s": {**effect, "estimate": 1.0, "low": 0.71, "high": 1.33}}
    other = {"version": "3", "verdict": "not worse", "reason": "below the margin", "pairs": 8, "effects": found}
    later = {"pair": [7, 8], "low": [0.6, 0.7], "high": [1.5, 1.3], "estimate": [1.1, 1.0]}
    verdict = {
        "verdict": "no difference",
        "reason": "no interval excludes 1",
        "effects": {"latency": {**effect, "estimate": 0.9, "low": 0.7, "high": 1.2}},
        "others": [{**other, "sequence": later}],
        "sequence": {"pair": [6, 7, 8], "low": [0.2, 0.5, 0.7], "high": [4.0, 1.8, 1.2], "estimate": [0.8, 0.95, 0.9]},
    }
    experiment = {"id": "<i>x1</i>", "champion": "1", "challenger": "2", "pair": 8, "pairs": 8, "arm": "champion"}
    running = {**experiment, "others": ["3"], "end": fed["now"]}
    model = {**fed["model"], "experiment": running, "verdict": verdict}
    path = tmp_path / "frozen.html"
    path.write_text(frozen_now({**fed, "model": model}))
    watched = Watched(browser, path.as_uri())
    watched.open("")
    watched.page.wait_for_selector("#sequence-chart .main-svg")
    drawn = watched.page.evaluate("document.getElementById('sequence-chart').data.map((each) => Array.from(each.y))")
    assert drawn == [*(verdict["sequence"][name] for name in ("low", "high", "estimate")), [1.1, 1.0]]
    assert "<i>x1</i>: version 2, 3 against 1, pair 8 of 8, the champion routes now" in watched.text("#experiment")
    shown = watched.text("main")
    assert "Latest verdict: no difference. no interval excludes 1." in shown
    assert "0.7 to 1.2" in shown
    assert "not worse: below the margin" in shown
    assert "0.71 to 1.33" in shown
    assert watched.errors == watched.elsewhere == []
    watched.page.close()


def test_a_page_without_its_engine_is_refused_with_the_address(tmp_path):
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "fingerpost", "page", "--engine-url", f"http://127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 1
    assert f"the engine at http://127.0.0.1:{port} does not answer" in done.stderr


@pytest.mark.usefixtures("fed")
def test_it_can_be_used_by_keyboard_and_follows_the_light(watched):
    watched.open("/#model")
    watched.expect("#state").to_contain_text("live, engine")
    watched.page.focus("#tab-model")
    watched.page.keyboard.press("ArrowRight")
    assert watched.page.evaluate("document.activeElement.id") == "tab-worth"
    assert watched.page.is_visible("#worth")
    assert watched.page.get_attribute("#tab-worth", "aria-selected") == "true"
    watched.page.keyboard.press("Home")
    assert watched.page.is_visible("#fleet")
    assert not watched.page.is_visible("#worth")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = watched.page.evaluate(colour)
    watched.page.emulate_media(color_scheme="dark")
    assert watched.page.evaluate(colour) != light
    named = "!each.ariaLabel && !each.labels?.length && !each.getAttribute('aria-labelledby')"
    unnamed = f"[...document.querySelectorAll('[role=img], select, [role=tabpanel]')].filter((each) => {named}).length"
    assert watched.page.evaluate(unnamed) == 0


@pytest.mark.usefixtures("fed")
def test_every_call_has_an_example_that_works(engine, watched, tmp_path):
    described = page_numbers(engine, "/v1/openapi.json")["paths"]
    watched.open("/docs")
    watched.page.wait_for_selector("article")
    shown = watched.text("#calls")
    for path, methods in described.items():
        for method, call in methods.items():
            assert f"{method.upper()} {path}" in shown
            (sample,) = call["x-codeSamples"]
            assert sample["source"].splitlines()[0] in shown
            if "@" in sample["source"] or ("web-1" in sample["source"] and method == "get"):
                continue  # its file, or its host, is the reader's
            command = shlex.split(sample["source"].replace("\\\n", "").replace("http://127.0.0.1:3000", engine.url))
            command[0:1] = ["curl", "--silent", "--output", str(tmp_path / "answer"), "--write-out", "%{http_code}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            # The category table is of the features flow, `other` no category of this fleet, and the event made up.
            assert done.stdout[:1] == "2" or path.endswith(("/categories", "/route", "/withdrawn")), (path, done.stdout)
    assert watched.errors == watched.elsewhere == []


@pytest.mark.usefixtures("fed")
def test_a_restart_of_the_engine_is_told_and_survived(engine, watched):
    watched.open()
    watched.expect("#state").to_contain_text("live, engine")
    engine.kill()
    watched.expect("#banner").to_contain_text("does not answer since")
    assert watched.figure("fleet-ok") == "5"
    engine.start()
    watched.expect("#banner", 90).to_be_hidden()
    watched.expect("#state").to_contain_text("live, engine")
    watched.expect("[data-figure='fleet-ok']", 30).to_have_text("5")


@pytest.mark.usefixtures("fed")
def test_a_browser_loads_little_and_its_console_is_silent(engine, browser):
    found = look(browser, engine.url, 1)
    assert found["console_errors"] == []
    assert found["numbers_bytes"] > 0
    # Of 1,000 hosts and 100 categories the numbers have 130 kB.
    assert 10_000 < found["files_bytes"] < 300_000 - 150_000
    assert found["chart_library_bytes"] > 1_000_000


def test_it_sends_nothing_elsewhere(engine):
    with httpx.Client(base_url=engine.url, trust_env=False) as client:
        page = client.get("/")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert client.get("/page/plotly.js").content.startswith(b"/**\n* plotly.js")
        for path in ("/page/../api.py", "/page/%2e%2e%2fapi.py", "/page/none.js"):
            assert client.get(path).status_code == 404
        assert client.get("/", headers={"host": "evil.example"}).status_code == 403
        assert client.get("/v1/page/cell", params={"host": "h", "category": "c"}).status_code == 404
        assert "BentoML" not in page.text
