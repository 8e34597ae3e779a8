"""What `fingerpost worth` reads, refuses and shows."""

import gzip
import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from fingerpost.cli import app
from fingerpost.errors import FingerpostError, NoDataError
from fingerpost.simulator.worth.model import busiest
from fingerpost.simulator.worth.page import html, sentences, text
from fingerpost.simulator.worth.traffic import MAX_HOSTS, read_traffic
from fingerpost.simulator.worth.worth import Options, simulated, what_it_is_worth

COUNT, HOSTS = 600, 3
CLOCK = "26/Nov/2026:07:{:02}:{:02}"
TOOK_MS = 20
WRITTEN = {
    "envoy": lambda n, host: json.dumps(
        {
            **{"start": f"{1_790_000_000 + n * 0.01:.6f}", "host": host, "method": "GET", "path": f"/c{n % 2}"},
            **{"status": 200, "bytes_in": 0, "bytes_out": 0, "duration_us": 21_000, "service_time_us": 20_000},
        }
    ),
    "combined": lambda n, host: (
        f'10.9.9.9 - - [{CLOCK.format(n // 60, n % 60)} +0000] "GET /c{n % 2} HTTP/1.1" 200 61 "-" "curl/8.5.0" '
        f'rt=0.021 urt=0.001, 0.020 upstream="10.0.0.99:80, {host}:8080" end={1_790_000_000 + n * 0.01:.3f}'
    ),
    "ingress": lambda n, host: (
        f'10.9.9.9 - - [{CLOCK.format(n // 60, n % 60)} +0000] "GET /c{n % 2} HTTP/1.1" 200 61 "-" "curl/8.5.0" '
        f"348 0.021 [default-web-80] [] 10.0.0.99:80, {host}:8080 0, 61 0.001, 0.020 502, 200 8351a9c0e2487dbb"
    ),
    # What a collector puts before a line.
    "ingress-cri": lambda n, host: f"2026-11-26T07:10:14.123456789Z stdout F {WRITTEN['ingress'](n, host)}",
    "envoy-json": lambda n, host: json.dumps(
        {
            **{"start_time": f"2026-11-26T07:{n // 60:02}:{n % 60:02}.500Z", "method": "GET", "path": f"/c{n % 2}"},
            **{"response_code": 200, "response_flags": "-", "bytes_received": 0, "bytes_sent": 61, "duration": 21},
            **{"upstream_service_time": "20", "upstream_host_name": host},
        }
    ),
    "haproxy": lambda n, host: (
        f"10.9.9.9:51370 [{CLOCK.format(n // 60, n % 60)}.654] front app/{host} 0/0/1/20/21 200 120 - - ---- "
        f'1/1/0/0/0 0/0 "GET /c{n % 2} HTTP/1.1"'
    ),
}


def write_log(path, write, hosts=tuple(f"h{each}" for each in range(HOSTS)), count=COUNT):
    lines = [write(number, hosts[number % len(hosts)]) for number in range(count)]
    path.write_text("\n".join(["not a line", *lines]) + "\n")
    return path


@pytest.mark.parametrize("name", WRITTEN)
def test_every_log_of_all_hosts_is_read_with_the_host_that_answered(tmp_path, name):
    log = write_log(tmp_path / "access.log", WRITTEN[name])
    found = read_traffic([log])
    ports = "-8080" if name in ("combined", "ingress", "ingress-cri") else ""
    assert found.hosts == [f"h{each}{ports}" for each in range(HOSTS)]
    assert len(found.host) == COUNT
    assert [each.split("|")[0] for each in found.categories] == ["GET /c0", "GET /c1"]
    assert found.took_s == pytest.approx(np.full(COUNT, TOOK_MS / 1000))
    assert found.duration_s == pytest.approx(np.full(COUNT, 0.021))
    assert found.refused.total() == 1


def test_one_log_a_host_may_leave_the_host_to_the_file_names(tmp_path):
    logs = []
    for host in ("web-1", "web-2"):
        lines = [WRITTEN["combined"](number, host).partition(" upstream=")[0] for number in range(COUNT)]
        logs.append(tmp_path / f"{host}.log.gz")
        logs[-1].write_bytes(gzip.compress("\n".join(lines).encode()))
    found = read_traffic(logs)
    assert found.hosts == ["web-1", "web-2"]
    assert any("whole seconds" in note for note in found.notes)
    with pytest.raises(NoDataError, match=r"host:missing.*upstream=\$upstream_addr"):
        read_traffic(logs[:1])


@pytest.mark.parametrize("given", [None, "envoy-text", "line"])
def test_logs_of_any_known_or_declared_format_are_read(tmp_path, given):
    """Of hosts that are named by their files, since the lines name none."""
    declared = '[%START_TIME%] "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%" %RESPONSE_CODE% %DURATION%'
    tail = "" if given == "line" else ' 43 "-" "curl/8" "id" "shop" "10.0.0.1:80"'
    sizes = "" if given == "line" else "- 0 61 "
    logs = [tmp_path / f"web-{host}.log" for host in (1, 2)]
    for log in logs:
        lines = [
            f'[2026-11-26T07:{n // 60:02}:{n % 60:02}.500Z] "GET /c{n % 2} HTTP/1.1" 200 {sizes}44{tail}'
            for n in range(COUNT)
        ]
        log.write_text("\n".join(lines))
    found = read_traffic(logs, log_format=declared if given == "line" else given)
    assert found.hosts == ["web-1", "web-2"]
    assert len(found.host) == 2 * COUNT
    assert found.duration_s == pytest.approx(np.full(2 * COUNT, 0.044))
    assert not found.refused


def without_times(number, host):
    line = json.loads(WRITTEN["envoy"](number, host))
    return json.dumps({**line, "duration_us": None, "service_time_us": None})


def test_what_cannot_be_answered_is_said_with_what_to_do(tmp_path):
    log = tmp_path / "access.log"
    with pytest.raises(NoDataError, match="1 host"):
        read_traffic([write_log(log, WRITTEN["envoy"], hosts=("h1",))])
    with pytest.raises(NoDataError, match=r"499 requests were answered .* 500 at least"):
        read_traffic([write_log(log, WRITTEN["envoy"], count=499)])
    with pytest.raises(NoDataError, match="no request has a duration"):
        read_traffic([write_log(log, without_times)])
    log.write_text("what is this\n" * 3)
    with pytest.raises(NoDataError, match=r"none of its first 3 lines .*envoy, combined, haproxy"):
        read_traffic([log])
    log.write_text("")
    with pytest.raises(NoDataError, match="is empty"):
        read_traffic([log])
    with pytest.raises(NoDataError, match="name one lake or folder alone"):
        read_traffic([tmp_path, log])
    with pytest.raises(NoDataError, match="neither a lake"):
        read_traffic([tmp_path])


def test_a_clock_that_is_centuries_off_is_left_out(tmp_path):
    log = write_log(tmp_path / "access.log", WRITTEN["envoy"])
    line = json.loads(WRITTEN["envoy"](0, "h1"))
    log.write_text(log.read_text() + json.dumps({**line, "start": "99999999999.000000"}) + "\n")
    found = read_traffic([log])
    assert found.refused["time:far_off"] == 1
    assert busiest(found).rate_rps == pytest.approx(100, rel=0.05)


def test_caps_are_kept_and_told(tmp_path):
    log = write_log(tmp_path / "access.log", WRITTEN["envoy"], count=2000)
    found = read_traffic([log], max_requests=1000)
    assert len(found.host) == 1000
    assert any("first 1,000 requests" in note for note in found.notes)
    many = write_log(log, WRITTEN["envoy"], hosts=tuple(f"h{each}" for each in range(MAX_HOSTS + 10)), count=3030)
    found = read_traffic([many])
    assert len(found.hosts) == MAX_HOSTS
    assert any("1,000 of 1,010 hosts" in note for note in found.notes)


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """Two hosts of which each is fast at one of two kinds of request, one with a name that is markup."""
    rng = np.random.default_rng(5)

    def write(number, host):
        fast = (number % 2 == 0) == (host == "h0")
        took_us = int((5_000 if fast else 40_000) * rng.lognormal(0, 0.3))
        line = json.loads(WRITTEN["envoy"](number, host))
        path = "/c0" if number % 2 else "/<script>alert(1)</script>$x$"
        return json.dumps({**line, "path": path, "duration_us": took_us + 1000, "service_time_us": took_us})

    log = tmp_path_factory.mktemp("worth") / "access.log"
    # Pairs, so that each host gets both kinds.
    lines = [write(number, f"h{number // 2 % 2}") for number in range(3000)]
    log.write_text("\n".join(lines))
    options = Options(slots=4, cores=2.0, fleets=2, shares=(0.7,))
    return what_it_is_worth([log], options)


@pytest.mark.process
def test_the_answer_says_that_hosts_differ_by_category_and_what_follows(answer):
    figures = answer.as_dict()
    assert figures["difference"]["verdict"] == "by category"
    # Each cell lies half of the log of 8 from host + category; of the four, one is free.
    assert figures["difference"]["host_by_category"]["sd"] == pytest.approx(np.log(8), rel=0.05)
    assert figures["gain_p99"]["mean"] > 1
    held = {each["policy"]: each["load"] for each in figures["highest_load"]}
    assert held["fingerpost"] > held["least_request"] > 0
    assert figures["cores_saved"] == pytest.approx(figures["hosts_saved_share"] * 4, abs=0.01)
    assert json.loads(json.dumps(figures)) == figures


@pytest.mark.process
def test_the_text_fits_a_screen(answer):
    shown = text(answer)
    assert "By category" in shown
    assert len(shown.splitlines()) <= 40
    assert any("could go at equal service" in each for each in sentences(answer))


@pytest.mark.process
def test_a_load_that_nobody_holds_is_said_and_not_computed_with(answer):
    rate = 4 * answer.bounds_rps[0]
    stretch = replace(answer.stretch, rate_rps=rate, rates=np.full(len(answer.stretch.rates), rate))
    options = Options(fleets=1, shares=(), highest=False)
    found = simulated(answer.measured, stretch, options, lambda _line: None)
    assert found.gain() is None
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["gain_p99"] is None
    assert "more than predictive routing could hold" in text(found)
    assert "overloaded" in html(found)
    assert "nan" not in text(found)


@pytest.mark.process
def test_the_page_is_one_file_that_obeys_no_name(answer):
    page = html(answer)
    assert "<script" not in page
    assert "script&gt;" in page
    assert "src=" not in page
    assert "@import" not in page
    # Pictures are in it, and whole.
    begin = page.index("<svg")
    ElementTree.fromstring(page[begin : page.index("</svg>", begin) + len("</svg>")])  # noqa: S314 (our own)
    assert page.count("<svg") == 2


@pytest.mark.process
def test_the_command_reads_the_sample_and_checks_its_options(tmp_path):
    page = tmp_path / "worth.html"
    asked = ["worth", "data/sample", "--json", "--loads", "", "--no-highest", "--fleets", "1", "--html", str(page)]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 0, found.output
    figures = json.loads(found.stdout)
    assert figures["difference"]["verdict"] == "by category"
    assert figures["places"]["source"] == "told"
    assert page.stat().st_size > 10_000
    for wrong, message in (
        (["--policies", "orca"], "fingerpost, least_request must be among them"),
        (["--policies", "least_request,fingerpost,best"], "'best' is none of"),
        (["--log-format", "iis"], "--log-format: the log format 'iis' is neither a known name nor a format string"),
        (["--loads", "2"], "--loads: '2'"),
    ):
        refused = CliRunner().invoke(app, ["worth", "data/sample", *wrong])
        assert isinstance(refused.exception, FingerpostError)
        assert message in str(refused.exception)
