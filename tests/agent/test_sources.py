"""The log sources on a corpus of nasty lines and on damaged real ones: every line is parsed or refused, none breaks."""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.accesslog import combined as combined_log
from fingerpost.accesslog import envoy as envoy_log
from fingerpost.accesslog import haproxy as haproxy_log
from fingerpost.accesslog.fields import client_of
from fingerpost.accesslog.formats import LOG_FORMATS
from fingerpost.accesslog.tail import LogTail
from fingerpost.agent.main import build_agent
from fingerpost.agent.options import AgentOptions
from fingerpost.clock import US, clock_us
from fingerpost.errors import RefusedError
from fingerpost.records import REQUEST_RECORD, refusal
from fingerpost.routing.envoy.config import access_log_format

CORPUS = Path(__file__).parents[1] / "corpus" / "logs"
FORMATS = sorted(LOG_FORMATS)
LONG = [b"a", b" ", b'"', b"\\", b"/", b"[", b"{", b"1:1 ", b'" "', b'] "', b" [aaaaaaaaaaaaaaaaaaaaaaaa] ", b"\xff"]
FORTY_YEARS_US = 40 * 366 * 86400 * US
COMBINED = b'203.0.113.9 - - [17/May/2015:10:05:03 +0000] "GET /a/42 HTTP/1.1" 200 512 "-" "curl/8.5.0"'
HAPROXY = (
    b"{client} [06/Feb/2016:12:14:14.655] http-in static/{server} 10/0/30/69/109 200 2750 - - ---- 1/1/1/1/0 0/0 "
    b'{headers}"GET /users/42 HTTP/1.1"'
)


@cache
def corpus(name):
    return (CORPUS / f"{name}.txt").read_bytes().split(b"\n")[:-1]


def outcome(name, line):
    """The checked record of a line, or why it is refused; any other error fails the test."""
    now = clock_us()
    claimed = LOG_FORMATS[name].claim(line, "h1")
    try:
        row = LOG_FORMATS[name].parse(line, "shop", claimed)
    except RefusedError as error:
        return error.reason
    reason = refusal(row, REQUEST_RECORD, now - FORTY_YEARS_US, now + 5 * US)
    if reason:
        return reason
    assert claimed == row["host"], "a record is its claimant's"
    assert row["client"] is None or len(row["client"]) <= 256
    return row


def haproxy(client=b"10.0.1.2:33317", server=b"h1", headers=b""):
    return HAPROXY.replace(b"{client}", client).replace(b"{server}", server).replace(b"{headers}", headers)


@pytest.mark.parametrize("name", FORMATS)
def test_the_corpus_is_parsed_or_refused_as_it_says(name):
    for line in corpus(f"{name}-parsed"):
        assert isinstance(outcome(name, line), dict), (line, outcome(name, line))
    for line in corpus(f"{name}-refused"):
        reason = outcome(name, line)
        assert isinstance(reason, str), (line, reason)
        assert ":" in reason
    for other in FORMATS:
        for kind in ("parsed", "refused"):
            for line in corpus(f"{other}-{kind}"):
                outcome(name, line)


@given(st.data())
def test_damage_to_a_line_of_the_corpus_breaks_no_parser(data):
    name = data.draw(st.sampled_from(FORMATS))
    damaged = bytearray(data.draw(st.sampled_from(corpus(f"{name}-parsed"))))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(damaged)))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "repeat"]))
        if kind == "set":
            damaged[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
        elif kind == "cut":
            del damaged[at : at + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            damaged[at:at] = data.draw(st.sampled_from([*map(bytes, zip(b'"\\[]{}|\xff\0')), b"9" * 30]))
        else:
            damaged[at:at] = damaged[at : at + 20]
    for each in FORMATS:
        outcome(each, bytes(damaged))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", LONG)
def test_a_long_line_of_anything_is_parsed_or_refused(name, part):
    long = part * (64 * 1024 // len(part))
    first = corpus(f"{name}-parsed")[0]
    for line in (long, first + long, first[:20] + long, first.replace(b"curl", b"curl" + long), long + first):
        outcome(name, line)


@pytest.mark.parametrize("name", FORMATS)
def test_a_user_agent_of_a_megabyte_does_not_matter(name):
    agent = b"curl/8 " + b"x" * 2**20
    line = haproxy(headers=b"{shop|" + agent + b"} ") if name == "haproxy" else corpus(f"{name}-parsed")[0]
    row = outcome(name, line.replace(b"curl/8.5.0", agent).replace(b"curl/8", agent))
    assert row["user_agent_class"] == "library"


@pytest.mark.parametrize("name", FORMATS)
def test_an_agent_counts_every_line_of_the_corpus(tmp_path, name):
    log = tmp_path / "access.log"
    lines = [line for kind in ("parsed", "refused") for line in corpus(f"{name}-{kind}")]
    log.write_bytes(b"\n".join(lines) + b"\n")
    options = AgentOptions(tmp_path / "lake", "shop", "h1", log, log_format=name, max_age_s=FORTY_YEARS_US / US)
    agent, *_ = build_agent(options)
    agent.read()
    agent.report()
    counts = agent.all_counts()
    refused = sum(count for key, count in counts.items() if key.startswith("refused "))
    assert counts["records"] == len(corpus(f"{name}-parsed"))
    assert counts["records"] + refused == sum(1 for line in lines if line.strip())
    assert "foreign" not in counts


# --- what the lines tell


def test_named_times_of_a_combined_log():
    def parse(extra):
        return outcome("combined", COMBINED + extra)

    row = parse(b' "-" rt=0.012 uct="0.000" urt="0.011" cl=512 up=10.0.0.3:80')
    assert (row["duration_s"], row["service_time_s"], row["bytes_in"]) == (0.012, 0.011, 512)
    assert parse(b" rt=0.3 urt=0.1, 0.2 : 0.011")["service_time_s"] == 0.011
    assert parse(b" urt=- rt=-")["duration_s"] is None
    assert parse(b" rt=-1.5") == "duration_s:negative"
    assert parse(b" rt=1e3") == "duration_s:malformed"
    assert parse(b" -5") == "duration_s:negative"
    assert parse(b" 7200.0") == "duration_s:too_large"
    assert parse(b" 0.1 0.2") == "line:malformed"


def test_the_client_is_told_for_the_look_up_of_its_region():
    assert combined_log.parse_line(COMBINED, "shop", "h1")["client"] == "203.0.113.9"
    assert combined_log.parse_line(b"-" + COMBINED[11:], "shop", "h1")["client"] is None
    assert combined_log.parse_line(COMBINED + b' "6.6.6.6"', "shop", "h1")["client"] == "203.0.113.9"
    assert haproxy_log.parse_line(haproxy(), "shop")["client"] == "10.0.1.2"
    assert haproxy_log.parse_line(haproxy(b"2001:db8::1:443"), "shop")["client"] == "2001:db8::1"
    told = b'"client":"6.6.6.6, 203.0.113.9"}'
    assert envoy_log.parse_line(corpus("envoy-parsed")[0][:-1] + b"," + told, "shop")["client"] == "203.0.113.9"
    assert envoy_log.parse_line(corpus("envoy-parsed")[0], "shop")["client"] is None
    assert client_of("x" * 10**6) == "x" * 256


def test_the_client_is_logged_only_on_request():
    assert "client" not in access_log_format("random", 2)
    assert "DOWNSTREAM_REMOTE_ADDRESS" in access_log_format("random", 2, log_client=True)["client"]


def test_a_captured_header_cannot_pass_for_the_line():
    spoof = b"shop|" + haproxy(server=b"h2").partition(b'"')[0]
    line = haproxy(headers=b"{" + spoof + b"} ")
    assert haproxy_log.claimed_host(line) == haproxy_log.parse_line(line, "shop")["host"] == "h1"


def test_a_captured_user_agent_gives_its_class():
    assert outcome("haproxy", haproxy(headers=b"{shop|curl/8} "))["user_agent_class"] == "library"
    assert outcome("haproxy", haproxy(headers=b"{curl/8} {} "))["user_agent_class"] == "other"


def test_a_request_that_no_server_took_is_refused_by_name():
    line = haproxy(server=b"<NOSRV>")
    assert haproxy_log.claimed_host(line) is None
    assert outcome("haproxy", line) == "host:bad_name"


# --- a log that changes under the reader


def append(path, text):
    with path.open("ab") as handle:
        handle.write(text)


def test_a_log_replaced_in_the_middle_of_a_line(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\ntw")
    tail = LogTail(log)
    assert list(tail.lines()) == [b"one"]
    new = tmp_path / "log.new"
    new.write_bytes(b"first\nsec")
    new.rename(log)
    assert list(tail.lines()) == [b"tw", b"first"]
    append(log, b"ond\n")
    assert list(tail.lines()) == [b"second"]


def test_a_writer_that_goes_on_in_the_renamed_log(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\ntw")
    tail = LogTail(log)
    assert list(tail.lines()) == [b"one"]
    old = log.rename(tmp_path / "log.1")
    assert list(tail.lines()) == []
    log.touch()
    append(old, b"o\nthree\n")
    assert list(tail.lines()) == [b"two", b"three"]
    append(log, b"four\n")
    assert list(tail.lines()) == [b"four"]


def test_a_log_copied_and_truncated_in_the_middle_of_a_line(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\ntw")
    tail = LogTail(log)
    assert list(tail.lines()) == [b"one"]
    with log.open("r+b") as handle:
        handle.truncate(0)
    append(log, b"o\n")
    assert list(tail.lines()) == [b"tw", b"o"]


def test_a_log_truncated_and_grown_past_where_we_stood(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\n")
    tail = LogTail(log)
    assert list(tail.lines()) == [b"one", b"two"]
    with log.open("r+b") as handle:
        handle.truncate(0)
    append(log, b"three\nfour\nfive\n")
    assert list(tail.lines()) == [b"three", b"four", b"five"]


def test_a_writer_that_leaves_zeros_where_the_log_was(tmp_path):
    log = tmp_path / "log"
    with log.open("wb", buffering=0) as writer:
        writer.write(b"one\n")
        tail = LogTail(log)
        assert list(tail.lines()) == [b"one"]
        with log.open("r+b") as handle:
            handle.truncate(0)
        writer.write(b"two\n")
        assert list(tail.lines()) == [b"two"]


def test_a_log_renamed_while_the_reader_was_away(tmp_path):
    log = tmp_path / "access.log"
    log.write_bytes(b"one\ntwo\n")
    tail = LogTail(log)
    assert list(tail.lines()) == [b"one", b"two"]
    append(log, b"three\n")
    log.rename(tmp_path / "access.log.1")
    log.write_bytes(b"four\n")
    again = LogTail(log, tail.position)
    assert list(again.lines()) == [b"three", b"four"]
    assert list(LogTail(log, again.position).lines()) == []
