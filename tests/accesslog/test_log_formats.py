"""The access-log formats besides Envoy's, on good, broken and real lines."""

import contextlib
import gzip
import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.accesslog import combined as combined_log
from fingerpost.accesslog import haproxy as haproxy_log
from fingerpost.accesslog.formats import LOG_FORMATS
from fingerpost.agent.main import build_agent
from fingerpost.agent.options import AgentOptions
from fingerpost.errors import RefusedError
from fingerpost.lake import parquet_files

SAMPLE_LOGS = Path(__file__).parents[2] / "data" / "sample" / "logs" / "nginx"
COMBINED = (
    '203.0.113.9 - {user} [{time}] "POST /users/42/orders?x=SECRET HTTP/1.1" 201 512 '
    + r'"-" "curl/8.5.0 \"x\"" {duration}'
)
HAPROXY = (
    "<134>Feb  6 12:14:14 lb haproxy[14389]: 10.0.1.2:33317 [06/Feb/2026:12:14:14.655] http-in static/h1 "
    '10/0/30/69/109 200 2750 - - ---- 1/1/1/1/0 0/0 {1wt.eu} {} "GET /users/42 HTTP/1.1"'
)
NOW = "17/May/2026:10:05:03 +0200"


def combined(user="-", time=NOW, duration="0.125"):
    return COMBINED.format(user=user, time=time, duration=duration).strip().encode()


def test_combined_lines_become_records():
    row = combined_log.parse_line(combined(user="frank"), "shop", "h1")
    assert row["time"] == 1_779_005_103_000_000
    assert (row["method"], row["route"], row["status"], row["bytes_out"]) == ("POST", "/users/*/orders", 201, 512)
    assert (row["auth"], row["user_agent_class"], row["duration_s"], row["host"]) == ("basic", "library", 0.125, "h1")
    assert combined_log.parse_line(combined(duration="2500"), "shop", "h1")["duration_s"] == 0.0025
    assert combined_log.parse_line(combined(duration=""), "shop", "h1")["duration_s"] is None


def test_a_finer_time_at_the_end_of_a_combined_line_is_taken():
    row = combined_log.parse_line(combined(duration="rt=0.012 rl=512 end=1779005103.250"), "shop", "h1")
    assert (row["time"], row["duration_s"], row["bytes_in"]) == (1_779_005_103_250_000, 0.012, 512)
    with pytest.raises(RefusedError, match="time:malformed"):
        combined_log.parse_line(combined(duration="end=soon"), "shop", "h1")


@pytest.mark.parametrize(
    ("method", "fields", "size"),
    [
        ("GET", "rl=3087", 0),  # all of it request line and headers
        ("DELETE", "rl=1290", 0),
        ("POST", "rl=2200", 2200),
        ("POST", "cl=700 rl=2200", 700),
        ("POST", "rl=2200 cl=700", 700),
        ("GET", "cl=-", 0),
        ("GET", "cl=12", 12),
    ],
)
def test_headers_do_not_count_as_the_size_of_a_request(method, fields, size):
    line = combined(duration=f"rt=0.012 {fields}").replace(b"POST", method.encode())
    assert combined_log.parse_line(line, "shop", "h1")["bytes_in"] == size


def test_auth_method_and_country_are_taken_where_a_log_tells_them():
    row = combined_log.parse_line(combined(user="frank", duration='auth=bearer cc="DE" rt=0.012'), "shop", "h1")
    assert (row["auth"], row["region"]) == ("bearer", "DE")
    row = combined_log.parse_line(combined(user="frank", duration='auth=- cc="-"'), "shop", "h1")
    assert (row["auth"], row["region"]) == ("basic", "none")
    with pytest.raises(RefusedError, match="auth:malformed"):
        combined_log.parse_line(combined(duration="auth=letmein"), "shop", "h1")


@pytest.mark.parametrize(
    ("captured", "size", "auth", "region", "agent"),
    [
        ("h|curl/8|512|bearer|DE", 512, "bearer", "DE", "library"),
        ("h|curl/8|||", 0, "none", "none", "library"),
        ("h|curl/8", 0, "none", "none", "library"),
        ("h|curl/8|https://elsewhere/", 0, "none", "none", "other"),  # other headers than ours
    ],
)
def test_headers_captured_by_haproxy(captured, size, auth, region, agent):
    row = haproxy_log.parse_line(HAPROXY.replace("{1wt.eu}", f"{{{captured}}}").encode(), "shop")
    assert (row["bytes_in"], row["auth"], row["region"], row["user_agent_class"]) == (size, auth, region, agent)


def test_haproxy_lines_become_records():
    row = haproxy_log.parse_line(HAPROXY.encode(), "shop")
    assert haproxy_log.claimed_host(HAPROXY.encode()) == row["host"] == "h1"
    assert (row["method"], row["route"], row["status"]) == ("GET", "/users/*", 200)
    assert (row["duration_s"], row["service_time_s"]) == (0.109, 0.069)
    began = datetime(2026, 2, 6, 12, 14, 14, 655000).astimezone().timestamp()
    assert row["time"] == pytest.approx((began + 0.109) * 1e6)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        combined()[:60],
        combined(time="99/Xyz/2026:10:05:03 +0200"),
        combined(time="31/Feb/2026:10:05:03 +0200"),
        combined().replace(b"POST /users", b"\\x16\\x03"),
    ],
)
def test_broken_combined_lines_are_refused(line):
    with pytest.raises(RefusedError, match="malformed"):
        combined_log.parse_line(line, "shop", "h1")


@given(st.sampled_from(sorted(LOG_FORMATS)), st.binary() | st.text().map(str.encode))
def test_no_line_breaks_a_parser(name, line):
    LOG_FORMATS[name].claim(line, "h1")
    with contextlib.suppress(RefusedError):
        LOG_FORMATS[name].parse(line, "shop", "h1")


@given(st.data(), st.sampled_from([combined(), HAPROXY.encode()]))
def test_no_damage_to_a_good_line_breaks_a_parser(data, line):
    damaged = bytearray(line)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    for each in LOG_FORMATS.values():
        each.claim(bytes(damaged), "h1")
        with contextlib.suppress(RefusedError):
            each.parse(bytes(damaged), "shop", "h1")


def test_every_line_of_a_whole_log_is_parsed_or_refused_by_name():
    lines = [line for path in sorted(SAMPLE_LOGS.iterdir()) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert len(lines) > 10_000
    for line in lines:
        combined_log.parse_line(line, "shop", "h1")
    refused = Counter()
    for line in lines[:1000]:
        with pytest.raises(RefusedError) as error:
            combined_log.parse_line(line[: line.index(b"HTTP/")], "shop", "h1")
        refused[error.value.reason] += 1
    assert refused == {"line:malformed": 1000}


def test_an_agent_follows_a_combined_log(tmp_path):
    now = datetime.now().astimezone().strftime("%d/%b/%Y:%H:%M:%S %z")
    lines = [combined(time=now, duration="0.5"), b"nonsense", combined(time=now, duration="")]
    (tmp_path / "access.log").write_bytes(b"\n".join(lines) + b"\n")
    log = tmp_path / "access.log"
    each, *_ = build_agent(AgentOptions(tmp_path / "lake", "shop", "h1", log, log_format="combined"))
    each.read()
    each.report()
    files = parquet_files(tmp_path / "lake" / "inbox" / "requests")
    assert [row["duration_s"] for path in files for row in pq.ParquetFile(path).read().to_pylist()] == [0.5, None]
    (kept,) = (tmp_path / "lake" / "quarantine" / "lines").rglob("*.jsonl")
    assert json.loads(kept.read_text()) == {"reason": "line:malformed", "line": "nonsense"}
