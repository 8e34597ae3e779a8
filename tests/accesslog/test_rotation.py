"""A log that is rotated, compressed, copied and truncated, any number of times: every line is read once, in order."""

import gzip
import os
from collections import Counter
from itertools import count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.accesslog.rotation import Position, is_rotated
from fingerpost.accesslog.tail import LogTail


class Log:
    """A log as its writer and logrotate treat it; its times are those of a clock of its own, a second a change."""

    def __init__(self, folder):
        self.path, self.clock, self.numbers = folder / "access.log", count(1_700_000_000), count()
        self.written = []
        self.path.touch()

    def write(self, lines=1):
        with self.path.open("ab") as handle:
            for _ in range(lines):
                self.written.append(b"line %06d" % next(self.numbers))
                handle.write(self.written[-1] + b"\n")
        self.touch(self.path)

    def touch(self, path):
        now_s = next(self.clock)
        os.utime(path, (now_s, now_s))

    def rotate(self, copytruncate=False):
        """`access.log` becomes `access.log.1`, that becomes `access.log.2`, and so on."""
        for number in range(20, 0, -1):
            for packed in ("", ".gz"):
                old = self.rotated(number, packed)
                if old.exists():
                    old.rename(self.rotated(number + 1, packed))
        if copytruncate:
            self.rotated(1).write_bytes(self.path.read_bytes())
            self.touch(self.rotated(1))
            os.truncate(self.path, 0)
        else:
            self.path.rename(self.rotated(1))
            self.path.touch()

    def compress(self, number, keep_time=True):
        plain = self.rotated(number)
        packed = self.rotated(number, ".gz")
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        if keep_time:
            os.utime(packed, ns=(plain.stat().st_atime_ns, plain.stat().st_mtime_ns))
        else:
            self.touch(packed)
        plain.unlink()

    def rotated(self, number, packed=""):
        return self.path.with_name(f"access.log.{number}{packed}")


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


@pytest.mark.parametrize("away", [True, False])
@pytest.mark.parametrize("packed", [(), (2,), (1,), (1, 2, 3)])
@pytest.mark.parametrize("copytruncate", [True, False])
def test_a_log_rotated_many_times_between_two_looks(log, away, packed, copytruncate):
    log.write(5)
    tail = LogTail(log.path)
    seen = list(tail.lines())
    for _ in range(3):
        log.write(5)
        log.rotate(copytruncate)
    for number in packed:
        log.compress(number)
    log.write(5)
    if away:
        tail = LogTail(log.path, tail.position)
    seen += list(tail.lines())
    assert seen == log.written
    assert list(LogTail(log.path, tail.position).lines()) == []


operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 40)),
        st.tuples(st.sampled_from(["rotate", "read", "read some", "restart"]), st.just(0)),
        st.tuples(st.just("compress"), st.integers(1, 4)),
    ),
    max_size=30,
)


@given(operations)
def test_every_line_is_read_once_however_the_log_is_rotated(tmp_path_factory, steps):
    log, counts = Log(tmp_path_factory.mktemp("log")), Counter()
    tail, seen = LogTail(log.path, None, counts), []
    for what, number in [("write", 1), ("read", 0), *steps, ("write", 1), ("read", 0)]:
        if what == "write":
            log.write(number)
        elif what == "rotate" and log.path.stat().st_size:
            log.rotate()
        elif what == "compress" and log.rotated(number).exists():
            log.compress(number)
        elif what == "read":
            seen += list(tail.lines())
        elif what == "read some":
            # What an agent does that can hold no more: the rest is read the next time.
            seen += islice(tail.lines(), 3)
            tail.rewind()
        elif what == "restart":
            tail = LogTail(log.path, tail.position, counts)
    assert seen == log.written
    assert not counts


def test_a_compressed_copy_of_what_was_read_is_not_read_again_whatever_its_time(log):
    log.write(3)
    tail = LogTail(log.path)
    seen = list(tail.lines())
    log.rotate()
    log.compress(1, keep_time=False)
    log.write(3)
    seen += list(tail.lines())
    log.rotate()
    log.compress(1, keep_time=False)
    log.write(3)
    seen += list(LogTail(log.path, tail.position).lines())
    assert seen == log.written


def test_a_file_that_is_gone_before_it_was_read_is_counted_and_warned_of(log, caplog):
    log.write(3)
    tail = LogTail(log.path)
    assert len(list(tail.lines())) == 3
    log.rotate()
    log.rotated(1).unlink()
    log.write(2)
    counts = Counter()
    again = LogTail(log.path, tail.position, counts)
    assert list(again.lines()) == log.written[3:]
    assert counts == {"log_gaps": 1}
    assert f"{log.path} was replaced" in caplog.text


def test_another_file_under_the_same_inode_is_not_taken_for_the_log(log):
    log.write(3)
    tail = LogTail(log.path)
    list(tail.lines())
    stood = tail.position
    log.path.write_bytes(b"another line\n" * 10)  # the same file, longer, with other content
    counts = Counter()
    assert len(list(LogTail(log.path, stood, counts).lines())) == 10
    assert counts == {"log_gaps": 1}


def test_a_position_of_an_earlier_version_is_taken_by_its_inode(log):
    log.write(2)
    stood = Position(log.path.stat().st_ino, log.path.stat().st_size)
    log.write(2)
    log.rotate()
    log.write(1)
    assert list(LogTail(log.path, stood).lines()) == log.written[2:]


def test_a_compressed_file_that_is_cut_is_read_as_far_as_it_goes(log):
    log.write(2)
    tail = LogTail(log.path)
    list(tail.lines())
    log.rotate()
    log.write(20_000)
    log.rotate()
    log.compress(1)
    whole = log.rotated(1, ".gz").read_bytes()
    log.rotated(1, ".gz").write_bytes(whole[: len(whole) // 2])
    log.write(2)
    counts = Counter()
    seen = list(LogTail(log.path, tail.position, counts).lines())
    assert counts["log_damaged"] >= 1
    assert 2 < len(seen) < 20_000
    assert seen[-2:] == log.written[-2:]


@pytest.mark.parametrize(
    ("name", "rotated"),
    [
        ("access.log.1", True),
        ("access.log.12.gz", True),
        ("access.log-20260131", True),
        ("access.log-20260131-1700000000.gz", True),
        ("access.log.2026-01-31T00:00:00Z", True),
        ("access.log.old", True),
        ("access-20260131.log", True),
        ("access-2026-01-31.log.gz", True),
        ("access.log", False),
        ("access-2.log", False),
        ("access-errors.log", False),
        ("access.log.swp", False),
        ("access", False),
        ("error.log.1", False),
    ],
)
def test_rotated_files_are_known_by_their_names(name, rotated):
    assert is_rotated(name, "access.log") == rotated


def test_a_log_without_an_ending_is_rotated_too():
    assert is_rotated("access.1", "access")
    assert is_rotated("access-20260131", "access")
    assert not is_rotated("access_log", "access")
