"""Log formats by name and by format string, what collectors put before their lines, and `fingerpost logs check`."""

import contextlib
import gzip
import json
import os
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fingerpost.accesslog.check import check_lines
from fingerpost.accesslog.format_string import SYNTAXES, compile_format
from fingerpost.accesslog.formats import FORMAT_NAMES, log_format
from fingerpost.accesslog.prefixes import without_prefix
from fingerpost.accesslog.times import local_s
from fingerpost.cli import app
from fingerpost.errors import FingerpostError, RefusedError

SECOND = 1_795_677_014  # 26 Nov 2026, 07:10:14 UTC
SECOND_US = SECOND * 1_000_000
COMMON = '198.51.100.7 - - [26/Nov/2026:07:10:14 +0000] "GET /slow/1?key=SECRET HTTP/1.1" 200 117'
COMBINED = f'{COMMON} "-" "curl/8.5.0"'
HTTPLOG = "198.51.100.7:51370 [26/Nov/2026:07:10:14.654] tls~ app/h1 0/0/0/4/43 {state} 1/1/0/0/0 0/0 {request}"
REQUEST = '"GET https://shop.example/slow/1?key=SECRET HTTP/2.0"'
ENVOY = (
    '[2026-11-26T07:10:14.123Z] "GET /slow/1 HTTP/1.1" {answer} 0 135 44 43 "198.51.100.7" "curl/8" "id" "shop" '
    '"10.1.1.1:80"'
)
CADDY = {
    "ts": SECOND + 0.5,
    "request": {
        **{"client_ip": "198.51.100.7", "method": "GET", "uri": "/slow/1?key=SECRET"},
        "headers": {"User-Agent": ["curl/8"]},
    },
    **{"bytes_read": 5, "duration": 0.25, "size": 117, "status": 200},
}
TRAEFIK = {
    **{
        "ClientHost": "198.51.100.7",
        "RequestMethod": "GET",
        "RequestPath": "/slow/1?key=SECRET",
        "DownstreamStatus": 200,
    },
    **{"StartUTC": "2026-11-26T07:10:14.123456789Z", "Duration": 12_000_000, "OriginDuration": 11_000_000},
    **{"DownstreamContentSize": 117, "RequestContentSize": 5, "request_User-Agent": "curl/8"},
}
ISTIO = {
    **{"start_time": "2026-11-26T07:10:14.123Z", "method": "GET", "path": "/slow/1?key=SECRET", "response_code": 200},
    **{"response_flags": "-", "bytes_received": 5, "bytes_sent": 117, "duration": 44, "upstream_service_time": "43"},
    **{"user_agent": "curl/8", "downstream_remote_address": "198.51.100.7:22"},
}


def parse(name, line):
    by = log_format(name)
    raw = line.encode() if isinstance(line, str) else line
    return by.parse(raw, "shop", by.claim(raw, "h1"))


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        # A virtual host before the client; the absolute form; parameters in the path.
        ("combined", f"www.shop.example:443 {COMBINED}", {"auth": "none", "client": "198.51.100.7"}),
        ("combined", f"www.shop.example {COMBINED}", {"auth": "none", "client": "198.51.100.7"}),
        ("combined", COMBINED.replace("198.51.100.7", "shop.example:80 2001:db8::1"), {"client": "2001:db8::1"}),
        ("combined", COMBINED.replace("/slow/1", "http://shop.example/abs/42"), {"route": "/abs/*"}),
        ("combined", COMBINED.replace("/slow/1?key=SECRET", "http://shop.example?x"), {"route": "/"}),
        ("combined", COMBINED.replace("GET /slow/1?key=SECRET", "CONNECT shop.example:443"), {"route": "/"}),
        ("combined", COMBINED.replace("/slow/1", "/app/home;jsessionid=0123456789ABCDEF.n1"), {"route": "/app/home"}),
        # Apache writes when a request came, nginx when it was done.
        ("combined", f"{COMBINED} 12048154", {"time": SECOND_US + 12_048_154, "duration_s": 12.048154}),
        ("combined", f"{COMBINED} 12.048", {"time": SECOND_US, "duration_s": 12.048}),
        ("combined", f"{COMBINED} rt=12.048", {"time": SECOND_US}),
        ("combined", f"{COMBINED} 12048154 end={SECOND + 13}.5", {"time": SECOND_US + 13_500_000}),
        ("combined", f"{COMBINED} 348 900", {"duration_s": None, "bytes_in": 0}),
        ("combined", f"{COMBINED.replace('GET', 'POST')} 348 900", {"duration_s": None, "bytes_in": 348}),
        ("combined", f'{COMBINED} rt=0.3 urt="0.100, -"', {"service_time_s": 0.1}),
        # How long a connection lasted is no time of a request.
        ("combined", f"{COMBINED.replace(' 200 ', ' 101 ')} rt=4800.5", {"status": 101, "duration_s": None}),
        ("apache-s", f"{COMBINED} 2", {"time": SECOND_US + 2_000_000, "duration_s": 2.0}),
        ("apache-ms", f"{COMBINED} 2048", {"time": SECOND_US + 2_048_000, "duration_s": 2.048}),
        ("apache-us", f"{COMBINED} 2048", {"time": SECOND_US + 2048, "duration_s": 0.002048}),
        ("apache-combinedio", f"{COMBINED} 348 900", {"duration_s": None, "bytes_in": 0, "bytes_out": 117}),
        ("apache-vhost", f"www.shop.example:443 {COMBINED}", {"client": "198.51.100.7"}),
        # Tomcat's milliseconds, after the request.
        ("tomcat", f"{COMBINED} 2048", {"time": SECOND_US, "duration_s": 2.048}),
        ("tomcat-common", f"{COMMON} 15", {"time": SECOND_US, "duration_s": 0.015}),
        (
            "ingress-nginx",
            f"{COMBINED} 348 0.101 [web-80] [] 10.0.0.7:80, 10.0.0.8:80 61, 0 0.100, - 200, - 8351a9c0e2487dbb",
            {"duration_s": 0.101, "service_time_s": 0.1, "bytes_in": 0, "bytes_out": 117, "time": SECOND_US},
        ),
        ("ingress-nginx", f"{COMBINED} 348 0.1 [web-80] [] - - - - id", {"duration_s": 0.1, "service_time_s": None}),
        ("traefik", f'{COMBINED} 12 "router@file" "http://10.0.0.2:80" 5ms', {"duration_s": 0.005}),
        (
            "haproxy",
            HTTPLOG.format(state="200 120 - - ----", request=REQUEST),
            {"host": "h1", "duration_s": 0.043, "service_time_s": 0.004, "status": 200},
        ),
        (
            "haproxy",
            HTTPLOG.format(state="200 120 - - ----", request=f"{REQUEST} 0/0000/0/0/0 shop.example/TLSv1.3/TLS_AES"),
            {"host": "h1", "duration_s": 0.043},
        ),
        (
            "haproxy-https",
            HTTPLOG.format(state="-1 0 - - CD--", request=f"{REQUEST} 0/0000/0/0/0 shop.example/TLSv1.3/TLS_AES"),
            {"status": 499},
        ),
        (
            "haproxy-tcp",
            "198.51.100.7:41982 [26/Nov/2026:07:10:14.783] fe app/h1 0/0/5007 212 -- 1/1/1/1/0 0/0",
            {"method": "TCP", "route": "/", "status": 200, "duration_s": 5.007, "host": "h1"},
        ),
        ("envoy-text", ENVOY.format(answer="200 -"), {"time": SECOND_US + 167_000, "service_time_s": 0.043}),
        ("envoy-text", ENVOY.format(answer="0 DC"), {"status": 499, "duration_s": 0.044}),
        ("envoy-text", ENVOY.format(answer="503 UF"), {"status": 503}),
        ("caddy", json.dumps(CADDY), {"time": SECOND_US + 500_000, "duration_s": 0.25, "bytes_in": 5}),
        ("caddy", json.dumps(CADDY | {"status": 0}), {"status": 499}),
        ("traefik-json", json.dumps(TRAEFIK), {"time": SECOND_US + 135_456, "service_time_s": 0.011, "bytes_in": 5}),
        ("envoy-json", json.dumps(ISTIO), {"time": SECOND_US + 167_000, "duration_s": 0.044, "bytes_in": 5}),
        ("envoy-json", json.dumps(ISTIO | {"grpc_status": "NotFound"}), {"status": 404}),
        ("envoy-json", json.dumps(ISTIO | {"grpc_status": "0"}), {"status": 200}),
        (
            "json",
            json.dumps({"time_iso8601": "2026-11-26T07:10:14Z", "request": "GET /slow/1 HTTP/1.1", "status": "200",
                        "request_time": "0.1", "http_user_agent": "curl/8"}),
            {"time": SECOND_US, "duration_s": 0.1},
        ),
        (
            "json",
            json.dumps({"ts": SECOND + 0.25, "method": "GET", "path": "/slow/1", "status": 200, "duration_ms": 100,
                        "user_agent": "curl/8"}),
            {"time": SECOND_US + 250_000, "duration_s": 0.1},
        ),
    ],
)  # fmt: skip
def test_lines_of_named_formats(name, line, expected):
    row = parse(name, line)
    assert {key: row[key] for key in expected} == expected
    if name != "haproxy-tcp" and "haproxy" not in name:
        assert row["user_agent_class"] == ("other" if name == "tomcat-common" else "library")
    assert "SECRET" not in str(row)


def test_a_client_that_gave_up_has_the_time_until_then_in_envoy_s_own_log():
    line = {
        **{"start": f"{SECOND}.871118", "host": "h1", "method": "GET", "path": "/slow/1", "status": 0, "bytes_in": 0},
        **{"response_flags": "DC", "bytes_out": 0, "duration_us": None, "service_time_us": None, "lasted_ms": 1500},
    }
    row = parse("envoy", json.dumps(line))
    assert (row["status"], row["duration_s"], row["time"]) == (499, 1.5, SECOND_US + 2_371_118)
    assert parse("envoy", json.dumps({**line, "lasted_ms": None}))["duration_s"] is None


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        (
            "log_format timed escape=default '$remote_addr [$time_local] '\n"
            "    '\"$request\" $status $request_time \"$upstream_response_time\"';",
            '198.51.100.7 [26/Nov/2026:07:10:14 +0000] "GET /a?x=SECRET HTTP/1.1" 200 0.010 "0.002, 0.007"',
            {"time": SECOND_US, "duration_s": 0.01, "service_time_s": 0.007},
        ),
        (
            '{"at":"$msec","line":"$request","s":$status,"d":$request_time,"ua":"$http_user_agent","l":"${content_length}"}',
            f'{{"at":"{SECOND}.250","line":"GET /a HTTP/1.1","s":200,"d":0.010,"ua":"cu\\"rl","l":"12"}}',
            {"time": SECOND_US + 250_000, "bytes_in": 12},
        ),
        (
            r'LogFormat "%h %l %u %{%Y-%m-%d %H:%M:%S %z}t \"%r\" %>s %b %{ms}T %X" timed',
            '198.51.100.7 - - 2026-11-26 07:10:14 +0000 "GET /a HTTP/1.1" 200 12 15 X',
            {"time": SECOND_US + 15_000, "status": 499, "duration_s": 0.015},
        ),
        (
            r'%{%FT%T}t.%{msec_frac}t%{%z}t %a "%m %U%q %H" %s %B %{us}T %{Content-Length}i',
            '2026-11-26T07:10:14.123+0000 198.51.100.7 "GET /a?x=1 HTTP/1.1" 200 12 15000 7',
            {"time": SECOND_US + 138_000, "bytes_in": 7},
        ),
        (
            r'tomcat:%h %t "%r" %s %b %D %F %I',
            '198.51.100.7 [26/Nov/2026:07:10:14 +0000] "GET /a HTTP/1.1" 200 - 12 11 http-nio-8080-exec-1',
            {"time": SECOND_US, "duration_s": 0.012, "bytes_out": 0},
        ),
        (
            r"log-format %ci:%cp\ [%tr]\ %s\ %Tr/%Ta\ %ST\ %B\ %tsc\ %{+Q}r\ %{+Q}[req.fhdr(user-agent)]",
            '198.51.100.7:123 [26/Nov/2026:07:10:14.783] h7 10/12 200 55 SD-- "GET /a HTTP/1.1" "curl/8"',
            {"host": "h7", "duration_s": 0.012, "service_time_s": 0.01, "status": 502},
        ),
        (
            '%START_TIME(%s%3f)% %REQ(:METHOD)% "%REQ(:PATH)%" %RESPONSE_CODE% '
            "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
            f'{SECOND}250 GET "/a?x=SECRET" 200 1500',
            {"time": SECOND_US + 251_500, "duration_s": 0.0015},
        ),
    ],
)  # fmt: skip
def test_formats_as_their_servers_declare_them(text, line, expected):
    row = parse(text, line)
    assert (row["method"], row["route"]) == ("GET", "/a")
    assert {key: row[key] for key in expected} == expected
    with pytest.raises(RefusedError, match="line:malformed"):
        parse(text, line[: len(line) // 2])


@pytest.mark.parametrize(
    "text", ["", "nonsense", "$status $request_time", "%h %t", "%ci %ST", "x" * 9000, "$status" * 200]
)
def test_a_format_by_which_no_request_can_be_read_is_named(text):
    with pytest.raises(FingerpostError, match="log format"):
        compile_format(text)


@pytest.mark.parametrize(
    "prefix",
    [
        "<190>Nov 26 07:10:14 web1 nginx: ",
        "<190>nginx: ",
        "<134>Nov  6 07:10:14 lb haproxy[14389]: ",
        "<190>1 2026-11-26T07:10:14.003Z web1 nginx 812 - - ",
        '<190>1 2026-11-26T07:10:14.003+01:00 web1 nginx 812 ID47 [a@1 x="y\\]"][b] \ufeff',
        "2026-11-26T07:10:14.003456789Z stdout F ",
        "2026-11-26T07:10:14.003456789Z ",
        "Nov 26 07:10:14 web1 nginx[812]: ",
        "2026-11-26T07:10:14+0000 web1 nginx[812]: ",
        "web-1  | ",
        "[pod/web-0/nginx] ",
        "<30>Nov 26 07:10:14 web1 docker[1]: 2026-11-26T07:10:14.0Z stdout F ",
    ],
)
def test_what_a_collector_puts_before_a_line_is_passed_over(prefix):
    row = parse("combined", f"{prefix}{COMBINED} rt=0.002")
    assert (row["client"], row["auth"], row["duration_s"], row["route"]) == ("198.51.100.7", "none", 0.002, "/slow/*")
    assert parse("caddy", prefix + json.dumps(CADDY))["duration_s"] == 0.25


def test_lines_within_json_of_docker_and_journald():
    assert parse("combined", json.dumps({"log": f"{COMBINED}\n", "stream": "stdout"}))["client"] == "198.51.100.7"
    entry = {"__REALTIME_TIMESTAMP": "1", "MESSAGE": COMBINED}
    assert parse("combined", json.dumps(entry))["client"] == "198.51.100.7"
    assert parse("combined", json.dumps(entry | {"MESSAGE": list(COMBINED.encode())}))["client"] == "198.51.100.7"


@pytest.mark.parametrize(
    "line", [f"2026-11-26T07:10:14.0Z stdout P {COMBINED}", json.dumps({"log": COMBINED, "stream": "stdout"})]
)
def test_a_part_of_a_line_is_refused_as_such(line):
    with pytest.raises(RefusedError, match="line:cut"):
        parse("combined", line)


@given(st.sampled_from(FORMAT_NAMES), st.binary() | st.text().map(str.encode), st.sampled_from(["", "<1>", "web | "]))
def test_no_line_breaks_a_format(name, line, prefix):
    by = log_format(name)
    by.claim(line, "h1")
    by.tells(line)
    with contextlib.suppress(RefusedError):
        by.parse(prefix.encode() + line, "shop", "h1")


@given(st.data())
def test_no_damage_to_a_good_line_breaks_a_format(data):
    lines = [
        f"{COMBINED} 12 0.1",
        ENVOY.format(answer="200 -"),
        HTTPLOG.format(state="200 1 - - ----", request=REQUEST),
    ]
    line = bytearray(
        data.draw(st.sampled_from([*lines, json.dumps(CADDY), json.dumps(TRAEFIK), json.dumps(ISTIO)])).encode()
    )
    for _ in range(data.draw(st.integers(1, 5))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    for name in FORMAT_NAMES:
        with contextlib.suppress(RefusedError):
            parse(name, bytes(line))
    without_prefix(line) if line[:1] != b"{" else None


@given(st.sampled_from(SYNTAXES), st.text("%$>{}()[]\"' abDhimrstuTUX", max_size=60) | st.text(max_size=60))
def test_any_text_is_a_format_or_refused_by_name(syntax, text):
    for declared in (text, f"{syntax}:{text} $request %r [%t] %>s $status"):
        with contextlib.suppress(FingerpostError):
            compiled = compile_format(declared)
            with contextlib.suppress(RefusedError):
                compiled.values(COMBINED.encode())


@given(
    st.sampled_from(["GET", "POST"]),
    st.lists(st.sampled_from(["a", "b.c", "42", "é", '"', "\\", "x y"]), max_size=4).map(
        lambda words: "/" + "/".join(words)
    ),
    st.integers(100, 599).filter(lambda status: status != 101),
    st.integers(0, 3_000_000),
)
def test_what_is_written_by_a_format_is_read_by_it(method, path, status, took_us):
    """As servers escape it: what cannot stand in a line is written by its number."""
    sent = path.replace("\\", "\\x5C").replace('"', "\\x22").replace(" ", "%20")
    line = f'198.51.100.7 [26/Nov/2026:07:10:14 +0000] "{method} {sent} HTTP/1.1" {status} {took_us}'
    row = parse(r'apache:%h %t "%r" %>s %D', line)
    assert (row["method"], row["status"]) == (method, status)
    assert (row["duration_s"], row["time"]) == (took_us / 1e6, SECOND_US + took_us)


def test_long_lines_take_no_long_time():
    """No pattern goes over a line again and again: of a tenth of a megabyte that would take minutes."""
    for part in (b"a ", b'"', b"\\", b"/", b"1, ", b"[", b'" "', b"1:1 ", b"{", b" : "):
        line = COMBINED.encode() + b" " + part * (60_000 // len(part))
        for name in FORMAT_NAMES:
            for each in (line, part * (60_000 // len(part))):
                with contextlib.suppress(RefusedError):
                    parse(name, each)


def test_an_hour_that_comes_twice_is_the_one_nearer_to_now(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        first, second = (datetime(2026, 10, 25, hour, 30, tzinfo=UTC).timestamp() for hour in (0, 1))
        for now_s, expected in ((first + 5, first), (second + 5, second), (second + 86_400, second)):
            assert local_s("25/Oct/2026", 2, 30, 0, now_s) == expected
        # A leap second is a time as well.
        assert local_s("01/Jul/2026", 1, 59, 60, 0) == datetime(2026, 7, 1, 0, 0, tzinfo=UTC).timestamp()
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("lines", "name", "missing"),
    [
        ([COMBINED] * 3, "combined", ["duration", "service time", "concurrency", "size", "auth method", "country"]),
        ([f"{COMBINED} rt=0.1 urt=0.1 cl=5 auth=none cc=DE end={SECOND}.5"], "combined", ["concurrency"]),
        ([f"{COMBINED} 348 0.101 [w] [] 10.0.0.7:80 61 0.100 200 x"] * 3, "ingress-nginx", ["concurrency"]),
        ([HTTPLOG.format(state="200 1 - - ----", request=REQUEST)], "haproxy", ["concurrency", "size"]),
        ([json.dumps(CADDY)] * 3, "caddy", ["service time", "concurrency"]),
        ([json.dumps(TRAEFIK)], "traefik-json", ["concurrency"]),
        ([json.dumps(ISTIO)], "envoy-json", ["concurrency"]),
        ([ENVOY.format(answer="200 -")], "envoy-text", ["concurrency"]),
    ],
)
def test_the_format_that_fits_is_found_and_what_is_missing_is_told(lines, name, missing):
    found = check_lines([line.encode() for line in [*lines, "", "nonsense"]])
    assert (found.format, found.lines, found.parsed) == (name, len(lines) + 1, len(lines))
    assert found.refused.total() == 1
    assert found.fits
    assert set(missing) <= set(found.missing)
    if name != "ingress-nginx":
        assert ("size" in found.missing) == ("size" in missing)


def test_a_whole_number_of_unknown_unit_is_pointed_out():
    found = check_lines([f"{COMBINED} {number}".encode() for number in (2, 0, 15)])
    assert (found.format, found.records[0]["duration_s"]) == ("combined", 2e-6)
    assert "apache-ms" in found.notes[0]
    assert check_lines([f"{COMBINED} 2".encode()], "apache-s").notes == []


def test_logs_check_on_the_command_line(tmp_path):
    log = tmp_path / "access.log.gz"
    log.write_bytes(gzip.compress(f"{COMBINED} rt=0.1\nnonsense\n{COMBINED} rt=0.2".encode()))
    ran = CliRunner().invoke(app, ["logs", "check", str(log), "--json"])
    said = json.loads(ran.stdout)
    assert ran.exit_code == 0
    assert {name: said[name] for name in ("format", "lines", "parsed", "refused")} == {
        **{"format": "combined", "lines": 3, "parsed": 2},
        "refused": {"line:malformed": 1},
    }
    assert [row["duration_s"] for row in said["records"]] == [0.1, 0.2]
    assert "service time" in said["missing"]
    ran = CliRunner().invoke(app, ["logs", "check", "-", "--json"], input="nonsense\n" * 3)
    said = json.loads(ran.stdout)
    assert (ran.exit_code, said["format"], said["parsed"], said["lines"]) == (1, None, 0, 3)
    assert "no known format fits" in CliRunner().invoke(app, ["logs", "check", "-"], input="nonsense\n").stdout
    ran = CliRunner().invoke(app, ["logs", "check", str(tmp_path / "none.log")])
    assert "does not exist" in str(ran.exception)


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_an_agent_of_a_log_that_is_a_pipe_says_so_at_once(tmp_path, kind):
    log = tmp_path / "access.log"
    if kind == "fifo":
        os.mkfifo(log)
    else:
        log.symlink_to("/dev/null")
    ran = CliRunner().invoke(app, ["agent", "--host", "h1", "--access-log", str(log), "--log-format", "combined"])
    assert "is not a regular file" in str(ran.exception)
    ran = CliRunner().invoke(app, ["agent", "--host", "h1", "--access-log", str(log), "--log-format", "iis"])
    assert "neither a known name nor a format string" in str(ran.exception)
