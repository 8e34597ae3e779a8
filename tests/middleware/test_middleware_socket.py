"""The way to the agent: any datagram, full and missing sockets, forks."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.middleware import MiddlewareReceiver, Reporter
from fingerpost.middleware.wire import MAX_DATAGRAM, RECORD_KEYS, VERSION, allowed
from tests.support.middleware_requests import taken

pytestmark = pytest.mark.process


@given(st.binary(max_size=300))
def test_any_datagram_is_taken_or_counted(data):
    with sent_to_receiver([data, bytes([VERSION]) + data]) as receiver:
        receiver.records()
        assert receiver.counts["bad_datagrams"] <= 2


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=300),
    st.binary(),
    st.just([]),
)
maps = st.dictionaries(st.sampled_from([*RECORD_KEYS, "secret"]), values, max_size=6)


@given(st.lists(maps | values, max_size=4), values)
def test_any_batch_gives_only_what_is_allowed(records, dropped):
    batches = [{"records": records, "dropped": dropped}, {"records": dropped}, records]
    with sent_to_receiver([bytes([VERSION]) + msgpack.packb(each) for each in batches]) as receiver:
        taken = receiver.records()
        assert len(taken) + receiver.counts["bad_records"] == len(records)
        for record in taken:
            assert set(record) <= set(RECORD_KEYS)
            assert all(type(value) in RECORD_KEYS[name] for name, value in record.items())


@contextlib.contextmanager
def sent_to_receiver(datagrams: list[bytes]) -> Iterator[MiddlewareReceiver]:
    with tempfile.TemporaryDirectory() as folder:
        receiver = MiddlewareReceiver(Path(folder) / "s")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            for datagram in datagrams:
                sender.sendto(datagram, str(Path(folder) / "s"))
        yield receiver
        receiver.close()


def test_only_allowed_keys_and_types_pass():
    assert allowed({"status": 200, "secret": "x", "cpu_s": 1, "inflight": True, "route": "r" * 500, 3: 4}) == {
        "status": 200,
        "cpu_s": 1,
        "route": "r" * 256,
    }


def test_the_socket_file_is_private_and_goes_with_its_receiver(tmp_path):
    place = tmp_path / "s"
    first = MiddlewareReceiver(place)
    assert place.stat().st_mode & 0o777 == 0o600
    second = MiddlewareReceiver(place, mode=0o660)
    assert place.stat().st_mode & 0o777 == 0o660
    first.close()
    assert place.exists()
    second.close()
    assert not place.exists()
    place.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        MiddlewareReceiver(place)
    assert place.read_text() == "precious"


def give(reporter: Reporter, record: dict[str, Any]) -> None:
    reporter.report(lambda: record)


def test_records_wait_for_the_agent_and_what_is_given_up_is_told(tmp_path):
    reporter = Reporter(tmp_path / "s")
    for number in range(4000):
        give(reporter, {"status": number})
    reporter.flush()
    for number in range(4000, 5000):
        give(reporter, {"status": number})
    give(reporter, {"status": object()})
    give(reporter, {"route": "x" * MAX_DATAGRAM})
    reporter.flush()
    receiver = MiddlewareReceiver(tmp_path / "s")
    statuses: list[int] = []
    for _ in range(50):
        reporter.flush()
        statuses += [record["status"] for record in receiver.records()]
    reporter.close()
    receiver.close()
    assert statuses == list(range(5000 - 4096, 5000))
    assert receiver.counts["dropped"] == 5000 - 4096 + 2


def test_a_full_socket_never_blocks_and_a_restarted_agent_is_found(tmp_path):
    receiver, reporter = MiddlewareReceiver(tmp_path / "s"), Reporter(tmp_path / "s")
    for _ in range(20):
        for number in range(300):
            give(reporter, {"status": number, "user_agent": "x" * 256, "route": "r" * 200})
        reporter.flush()
    receiver.close()
    again = MiddlewareReceiver(tmp_path / "s")
    got = 0
    for _ in range(100):
        reporter.flush()
        got += len(again.records())
    reporter.close()
    again.close()
    assert got == 4096


def test_a_forked_child_reports_its_own_and_only_its_own(receiver, agent_socket):
    reporter = Reporter(agent_socket)
    give(reporter, {"route": "/parent", "status": 1})
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            give(reporter, {"route": "/child", "status": 2})
            time.sleep(0.6)
        os._exit(0)
    os.waitpid(child, 0)
    assert set(taken(receiver, 2)) == {"/parent", "/child"}
    reporter.close()


def test_a_served_application_loads_nothing_heavy():
    heavy = ("pydantic", "pandas", "numpy", "starlette", "anyio", "flask", "psutil", "ua_parser", "arro3", "typer")
    code = f"import fingerpost.middleware, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
