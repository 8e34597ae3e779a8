"""Signs of a host about to be slow: from the kernel's counters to the features of its cells."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.agent.sampling import SamplerOptions, Subject, make_sampler
from fingerpost.agent.sampling.cgroup import Cgroup, CgroupSampler, signs_of_process
from fingerpost.agent.sampling.find import by_pid
from fingerpost.agent.sampling.process import ProcessSampler
from fingerpost.agent.sampling.prometheus import PrometheusSampler
from fingerpost.agent.sampling.signs import Count, SignFiles, SignMeter
from fingerpost.agent.window_buffer import WindowBuffer, windows_of
from fingerpost.clock import US
from fingerpost.features.definition import HOST_FEATURES
from fingerpost.records import SIGNS
from fingerpost.telemetry.history import HISTORY_HOST_PLACE, History
from fingerpost.telemetry.windows import aggregate_loads
from fingerpost.window_report import LOAD_COLUMNS, load_row
from tests.agent.test_sampling import fake_proc, tree, usage
from tests.support.records import good_sample, sample

SUBJECT = Subject("shop", "h1")
CGROUPS = Path("/sys/fs/cgroup")
BURN = "while True: pass"


def pressure(total_us):
    return f"some avg10=0.00 avg60=0.00 avg300=0.00 total={total_us}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


@contextlib.contextmanager
def limited_cgroup():
    """A cgroup that may use a tenth of a core, of either version, and its file of processes; skips where none may be
    made."""
    name = f"fingerpost-test-{time.monotonic_ns()}"
    old, new = CGROUPS / "cpu" / name, CGROUPS / name
    try:
        folder = old if (CGROUPS / "cpu" / "cpu.cfs_quota_us").is_file() else new
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        try:
            if folder == old:
                (folder / "cpu.cfs_quota_us").write_text("10000")
            else:
                (folder / "cpu.max").write_text("10000 100000")
        except OSError as error:
            pytest.skip(f"no quota can be set here: {error}")
        yield folder
    finally:
        folder.rmdir()


@pytest.mark.process
def test_a_process_that_its_quota_throttles_is_seen_to_be():
    with limited_cgroup() as folder:
        process = subprocess.Popen([sys.executable, "-c", BURN])
        try:
            (folder / "cgroup.procs").write_text(str(process.pid))
            sampler = make_sampler(SUBJECT, SamplerOptions("process", find=by_pid(process.pid)))
            first = good_sample(sampler.sample())
            deadline = time.monotonic() + 20
            while not (row := sampler.sample())["throttled_share"] and time.monotonic() < deadline:
                time.sleep(0.1)
            assert first["throttled_share"] is not None
            assert 0 < good_sample(row)["throttled_share"] <= 1
        finally:
            process.kill()
            process.wait()
            while (folder / "cgroup.procs").read_text():
                time.sleep(0.01)


def test_the_machine_tells_of_pressure_and_stolen_time_but_is_not_throttled():
    row = good_sample(ProcessSampler(SUBJECT).sample())
    assert row["throttled_share"] is None
    assert (row["cpu_pressure"] is not None) == Path("/proc/pressure/cpu").is_file()
    assert row["steal_share"] is not None


def test_a_cgroup_has_the_throttling_of_those_above_it_and_its_own_pressure(tmp_path):
    proc = fake_proc(tmp_path)
    (proc / "stat").write_text("cpu  1 1 1 1 1 1 1 500 0 0\n")
    pods = tree(tmp_path / "cg" / "pods", cpu_stat="usage_usec 1\nnr_periods 100\nnr_throttled 10")
    leaf = tree(pods / "shop", **usage())
    (leaf / "cpu.pressure").write_text(pressure(5))
    (leaf / "memory.pressure").write_text(pressure(7))
    sampler = CgroupSampler(SUBJECT, Cgroup(leaf, tmp_path / "cg"), proc)
    tree(pods, cpu_stat="usage_usec 1\nnr_periods 110\nnr_throttled 14")
    (leaf / "cpu.pressure").write_text(pressure(10**15))
    (leaf / "memory.pressure").write_text(pressure(7))
    row = good_sample(sampler.sample())
    assert [row[name] for name in SIGNS] == [pytest.approx(0.4), 1.0, 0.0, 0.0]
    # Its pressure alone is not told: the machine's is.
    (leaf / "cpu.pressure").unlink()
    (proc / "pressure").mkdir()
    (proc / "pressure" / "cpu").write_text(pressure(10**15))
    tree(pods, cpu_stat="usage_usec 1\nnr_periods 110\nnr_throttled 14")
    row = good_sample(sampler.sample())
    assert (row["throttled_share"], row["cpu_pressure"]) == (0.0, 0.0)


def test_a_process_under_a_quota_of_version_1(tmp_path):
    folder = tree(tmp_path / "cpu" / "shop", cpu_stat="nr_periods 10\nnr_throttled 1\nthrottled_time 5")
    proc = tmp_path / "proc"
    (proc / "77").mkdir(parents=True)
    (proc / "self").mkdir()
    mount = f"32 31 0:29 / {tmp_path / 'cpu'} rw - cgroup cgroup rw,cpu,cpuacct"
    (proc / "self" / "mountinfo").write_text(f"31 1 0:1 / {tmp_path} rw - cgroup cgroup rw,cpuset\n{mount}\n")
    (proc / "77" / "cgroup").write_text("3:cpuset:/other\n2:cpu,cpuacct:/shop\n0::/\n")
    meter = SignMeter(signs_of_process(77, proc))
    tree(folder, cpu_stat="nr_periods 20\nnr_throttled 6\nthrottled_time 50")
    assert meter.look()["throttled_share"] == 0.5


@pytest.mark.parametrize(
    "text", ["", "some", "some total=x\n", "full total=5\n", "\x00\xff", "nr_periods 1\nnr_throttled\n"]
)
def test_files_that_say_nothing_are_no_signs(tmp_path, text):
    (tmp_path / "pressure").mkdir()
    for path in ("cpu.stat", "cpu.pressure", "memory.pressure", "stat", "pressure/cpu", "pressure/memory"):
        (tmp_path / path).write_text(text)
    assert list(SignFiles((tmp_path,), tmp_path, tmp_path).counts(0.0)) == []
    assert SignMeter(SignFiles((tmp_path / "gone",), tmp_path / "gone", tmp_path / "gone")).look() == dict.fromkeys(
        SIGNS
    )


counters = st.floats(0, 1e15)


@given(
    st.lists(st.tuples(st.sampled_from(SIGNS), st.sampled_from("ab"), counters, counters), max_size=20),
    st.integers(1, 5),
)
def test_signs_are_shares_whatever_the_counters_do(given_counts, looks):
    meter = SignMeter()
    for look in range(looks):
        shares = meter.shares([Count(*each) for each in given_counts[look::looks]])
        assert set(shares) == set(SIGNS)
        assert all(share is None or 0 <= share <= 1 for share in shares.values())


@pytest.mark.process
def test_an_exposition_tells_of_signs(endpoint):
    node = """node_memory_MemTotal_bytes 8e9
node_memory_MemAvailable_bytes 6e9
node_cpu_seconds_total{{cpu="0",mode="user"}} {0}
node_cpu_seconds_total{{cpu="0",mode="steal"}} {1}
node_pressure_cpu_waiting_seconds_total {1}
"""
    sampler = PrometheusSampler(SUBJECT, endpoint["url"])
    endpoint["text"] = node.format(0, 0)
    with pytest.raises(Exception, match="first reading"):
        sampler.sample()
    endpoint["text"] = node.format(10**9, 10**9)
    row = good_sample(sampler.sample())
    assert [row[name] for name in SIGNS] == [None, 1.0, None, 1.0]
    labels = '{container="shop"}'
    container = "\n".join(
        f"{name}{labels} {{0}}"
        for name in (
            "container_cpu_usage_seconds_total",
            "container_memory_working_set_bytes",
            "container_spec_memory_limit_bytes",
            "container_cpu_cfs_periods_total",
        )
    ).replace(labels, labels.replace("{", "{{").replace("}", "}}"))
    container += '\nmachine_cpu_cores 2\ncontainer_cpu_cfs_throttled_periods_total{{container="shop"}} {1}\n'
    sampler = PrometheusSampler(SUBJECT, endpoint["url"], {"container": "shop"})
    endpoint["text"] = container.format(1000, 10)
    with pytest.raises(Exception, match="first reading"):
        sampler.sample()
    endpoint["text"] = container.format(2000, 260)
    row = good_sample(sampler.sample())
    assert [row[name] for name in SIGNS] == [0.25, None, None, None]


def test_a_window_has_the_means_of_its_signs_and_reports_carry_them():
    buffer, end_us = WindowBuffer(), 1_700_000_000 * US
    for second, throttled in enumerate((0.25, 0.75, None)):
        buffer.add_sample(sample(time=end_us - (9 - second) * US, throttled_share=throttled, cpu_pressure=0.5))
    buffer.gather(0)
    _, loads = windows_of(*buffer.close(end_us), np.zeros(0, dtype=np.int64), 10.0)
    told = dict(zip(LOAD_COLUMNS, load_row(loads).tolist(), strict=True))
    assert told["throttled_share"] == told["cpu_pressure"] == 0.5
    assert np.isnan(told["steal_share"])


def follow(shares, window_s=10.0):
    """The history of a host whose memory is in use by these shares, window by window."""
    history = History(1, 1, window_s, 60.0)
    nothing = {name: np.zeros(0) for name in ("host", "category")}
    for number, share in enumerate(shares, start=170_000_000):
        end_us = round(number * window_s * US)
        told = {"time_us": [end_us - 1], "host": [0], "cpu_util": [0.5], "cores": [1.0], "mem_share": [share]}
        loads = aggregate_loads({**told, "throttled_share": [0.25]}, window_s)
        history.observe(end_us, nothing, {**loads, "background_cores": np.zeros(1)})
    return {name: history.host_values()[0, place] for name, place in HISTORY_HOST_PLACE.items()}


def test_history_and_features_have_signs_and_how_soon_memory_is_full():
    assert {f"host_{name}" for name in (*SIGNS, "mem_slope", "mem_full_s")} <= set(HOST_FEATURES)
    grows = follow([0.2, 0.3, 0.4, 0.5])
    assert grows["host_throttled_share"] == 0.25
    assert np.isnan(grows["host_steal_share"])
    assert grows["host_mem_slope"] == pytest.approx(0.01)
    assert grows["host_mem_full_s"] == pytest.approx(50)
    still, collected = follow([0.5, 0.5, 0.5]), follow([0.8, 0.9, 1.0, 0.2])
    assert still["host_mem_slope"] == 0 and np.isnan(still["host_mem_full_s"])
    assert np.isnan(collected["host_mem_slope"]) and np.isnan(collected["host_mem_full_s"])
    assert follow([0.9, 1.0, 0.2, 0.3])["host_mem_full_s"] == pytest.approx(70)
    assert np.isnan(follow([np.nan, 0.5, np.nan])["host_mem_slope"])
