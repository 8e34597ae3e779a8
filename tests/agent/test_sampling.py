"""The samplers on real processes and on cgroup trees made of real files, and the choice between them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.agent.sampling import SamplerOptions, SamplingError, Subject, make_sampler
from fingerpost.agent.sampling.base import CpuMeter
from fingerpost.agent.sampling.cgroup import Cgroup, CgroupSampler, Limits, find_cgroup
from fingerpost.agent.sampling.find import by_pid
from fingerpost.agent.sampling.process import ProcessSampler
from fingerpost.agent.sampling.prometheus import PrometheusSampler
from fingerpost.agent.sampling.trace import CpuTrace
from tests.support.records import good_sample

SUBJECT = Subject("shop", "h1")
# --- psutil


@pytest.mark.process
def test_a_process_is_measured_with_its_children():
    burn = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent])
    try:
        while not psutil.Process(process.pid).children():
            time.sleep(0.01)
        (child,) = psutil.Process(process.pid).children()
        sampler = ProcessSampler(Subject("shop", "h1", cores=1.0), by_pid(process.pid))
        before = sum(child.cpu_times()[:2])
        while sum(child.cpu_times()[:2]) < before + 0.3:
            time.sleep(0.05)
        row = good_sample(sampler.sample())
        assert row["cpu_util"] > 0.05
        assert row["mem_bytes"] > child.memory_info().rss
        child.kill()
        process.wait()
        with pytest.raises(SamplingError):
            sampler.sample()
    finally:
        for each in psutil.Process(process.pid).children() if process.poll() is None else []:
            each.kill()
        process.kill()
        process.wait()


def test_the_machine_is_measured():
    row = good_sample(ProcessSampler(SUBJECT).sample())
    assert row["cores"] == psutil.cpu_count()
    assert row["mem_limit_bytes"] == psutil.virtual_memory().total


@pytest.mark.parametrize("pid", [2**30, -5, 2**80])
def test_a_process_that_is_not_there_is_one_error(pid):
    with pytest.raises(SamplingError, match="cannot look at"):
        by_pid(pid)


@pytest.mark.process
def test_the_host_tells_of_its_slots(endpoint):
    sampler = ProcessSampler(Subject("shop", "h1", stats_url=endpoint["url"]))
    endpoint["text"] = '{"inflight": 3, "slots": 4}'
    assert good_sample(sampler.sample())["slots"] == 4
    for nonsense in ("", "[]", "{}", '{"inflight": 1e999, "slots": 1}', "[" * 60_000, "x" * 100_000):
        endpoint["text"] = nonsense
        assert sampler.sample()["slots"] is None


# --- utilisation


def test_a_counter_that_went_back():
    restarted, lost = CpuMeter(restarts=True), CpuMeter(restarts=False)
    assert restarted.utilisation(0, 100, 2) is lost.utilisation(0, 100, 2) is None
    assert restarted.utilisation(10, 5, 2) == 0.25
    assert lost.utilisation(10, 5, 2) == 0.0
    assert restarted.utilisation(10, 6, 2) == 0.0
    assert restarted.utilisation(9, 7, 2) == 0.0
    with pytest.raises(SamplingError):
        restarted.utilisation(11, float("nan"), 2)


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(0, 1e12), st.floats(0.001, 4096)), max_size=8), st.booleans())
def test_utilisation_is_a_share_whatever_the_clocks_do(readings, restarts):
    meter = CpuMeter(restarts)
    for number, reading in enumerate(readings):
        share = meter.utilisation(*reading)
        assert (share is None) == (number == 0)
        assert share is None or 0 <= share <= 1


# --- cgroup


def tree(root, **files):
    """A cgroup's folder; `cpu_max="..."` is the file cpu.max."""
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name.replace("_", ".", 1)).write_text(f"{text}\n")
    return root


def fake_proc(tmp_path, name="/", mounted="/", pid="self"):
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True, exist_ok=True)
    (proc / pid).mkdir(exist_ok=True)
    line = f"41 31 0:38 {mounted} {tmp_path / 'cg'} rw,relatime - cgroup2 cgroup2 rw"
    (proc / "self" / "mountinfo").write_text(f"30 1 0:1 / /sys rw - sysfs sysfs rw\n{line}\n")
    (proc / pid / "cgroup").write_text(f"4:memory:/elsewhere\n0::{name}\n")
    return proc


def usage(usec=1_000_000, current=500, inactive=100):
    return {
        "cpu_stat": f"usage_usec {usec}\nuser_usec 1",
        "memory_current": current,
        "memory_stat": f"inactive_file {inactive}",
    }


def test_the_tightest_limit_of_all_ancestors_counts(tmp_path):
    root = tree(tmp_path / "cg", cpu_max="max 100000")
    tree(root / "pods", cpu_max="50000 100000", memory_max=4000)
    leaf = tree(root / "pods" / "shop", cpu_max="200000 100000", memory_max="max", **usage())
    assert Cgroup(leaf, root).limits() == Limits(0.5, 4000)
    assert Cgroup(leaf, leaf).limits() == Limits(2.0, None)
    (leaf / "cpuset.cpus.effective").write_text("0-1,5\n")
    assert Cgroup(leaf, leaf).limits() == Limits(2.0, None)
    (leaf / "cpuset.cpus.effective").write_text("3\n")
    assert Cgroup(leaf, leaf).limits() == Limits(1.0, None)


@given(st.binary(max_size=30), st.binary(max_size=30), st.binary(max_size=30))
def test_limits_that_cannot_be_read_do_not_limit(tmp_path_factory, cpu, memory, cpus):
    root = tmp_path_factory.mktemp("cg")
    for name, text in (("cpu.max", cpu), ("memory.max", memory), ("cpuset.cpus.effective", cpus)):
        (root / name).write_bytes(text)
    limits = Cgroup(root, root).limits()
    assert limits.cores is None or limits.cores > 0
    assert limits.mem_bytes is None or limits.mem_bytes > 0


def test_a_cgroup_is_found_by_process_and_by_name(tmp_path):
    shop = tree(tmp_path / "cg" / "pods" / "shop", **usage())
    root = tree(tmp_path / "cg", **usage())
    assert find_cgroup(proc=fake_proc(tmp_path, "/pods/shop")) == Cgroup(shop, root)
    assert find_cgroup(77, proc=fake_proc(tmp_path, "/pods/shop", pid="77")) == Cgroup(shop, root)
    # A container that sees the machine's names, but only its own folder.
    assert find_cgroup(proc=fake_proc(tmp_path, "/docker/abc", mounted="/docker/abc")) == Cgroup(root, root)
    assert find_cgroup(proc=fake_proc(tmp_path, "/docker/abc")) == Cgroup(root, root)
    assert find_cgroup(path=shop, proc=fake_proc(tmp_path)) == Cgroup(shop, root)
    assert find_cgroup(path=Path("/pods/shop"), proc=fake_proc(tmp_path)) == Cgroup(shop, root)


@pytest.mark.parametrize("name", ["/../../other", "/gone (deleted)", "/pods/../../proc"])
def test_a_cgroup_out_of_sight_is_one_error(tmp_path, name):
    tree(tmp_path / "cg", **usage())
    with pytest.raises(SamplingError):
        find_cgroup(77, proc=fake_proc(tmp_path, name, pid="77"))
    with pytest.raises(SamplingError):
        find_cgroup(78, proc=tmp_path / "proc")
    with pytest.raises(SamplingError):
        find_cgroup(proc=tmp_path / "nowhere")


def test_a_hierarchy_that_others_mounted_first_is_passed_over(tmp_path):
    root = tree(tmp_path / "cg")
    leaf = tree(root / "kubepods" / "c 1", cpu_max="50000 100000", **usage())
    (tmp_path / "cilium").mkdir()
    proc = fake_proc(tmp_path, "/kubepods/c 1")
    mounts = proc / "self" / "mountinfo"
    mounts.write_text(f"29 23 0:26 / {tmp_path / 'cilium'} rw - cgroup2 cgroup2 rw\n{mounts.read_text()}")
    assert find_cgroup(proc=proc) == Cgroup(leaf, root)
    assert find_cgroup(path=Path("/kubepods/c 1"), proc=proc).limits().cores == 0.5
    mounts.write_text(
        f"29 23 0:26 /kubepods/c\\0401 {leaf.as_posix().replace(' ', chr(92) + '040')} rw - cgroup2 cgroup2 rw\n"
    )
    assert find_cgroup(proc=proc) == Cgroup(leaf, leaf)


def test_a_cgroup_of_version_1(tmp_path):
    """Docker of some years ago: a hierarchy for each resource, and the container's own folder as their roots."""
    cpu, memory = tree(tmp_path / "cpu,cpuacct" / "shop"), tree(tmp_path / "memory" / "shop")
    for folder, files in (
        (cpu, {"cpuacct.usage": 2_500_000_000, "cpu.cfs_quota_us": 150_000, "cpu.cfs_period_us": 100_000}),
        (cpu.parent, {"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100_000}),
        (memory, {"memory.usage_in_bytes": 500, "memory.limit_in_bytes": 4000}),
        (memory.parent, {"memory.limit_in_bytes": 9_223_372_036_854_771_712}),
    ):
        for name, value in files.items():
            (folder / name).write_text(f"{value}\n")
    (memory / "memory.stat").write_text("cache 5\ntotal_inactive_file 100\n")
    proc = fake_proc(tmp_path, "/")
    (proc / "self" / "mountinfo").write_text(
        f"30 1 0:3 / {cpu.parent} rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"31 1 0:4 / {memory.parent} rw - cgroup cgroup rw,memory\n"
    )
    (proc / "self" / "cgroup").write_text("4:memory:/shop\n3:cpu,cpuacct:/shop\n1:name=systemd:/shop\n")
    found = find_cgroup(proc=proc)
    assert (found.limits(), found.busy_s(), found.mem_bytes()) == (Limits(1.5, 4000), 2.5, 400)
    row = good_sample(CgroupSampler(SUBJECT, found, proc).sample())
    assert (row["cores"], row["mem_limit_bytes"], row["mem_bytes"]) == (1.5, 4000, 400)
    assert find_cgroup(path=Path("/shop"), proc=proc) == found
    (cpu / "cpuacct.usage").unlink()
    with pytest.raises(SamplingError):
        find_cgroup(path=Path("/shop"), proc=proc)


def test_a_cgroup_is_sampled_within_its_limits(tmp_path):
    leaf = tree(tmp_path / "cg", cpu_max="50000 100000", memory_max=4000, **usage())
    sampler = CgroupSampler(SUBJECT, Cgroup(leaf, leaf))
    tree(leaf, **usage(usec=10**12))
    row = good_sample(sampler.sample())
    assert (row["cores"], row["mem_limit_bytes"], row["mem_bytes"], row["cpu_util"]) == (0.5, 4000, 400, 1.0)
    tree(leaf, cpu_max="100000 100000", **usage(usec=5, inactive=10**6))  # resized, and the counter began anew
    row = good_sample(sampler.sample())
    assert (row["cores"], row["mem_bytes"]) == (1.0, 0)
    assert row["cpu_util"] < 1
    (leaf / "memory.current").unlink()
    with pytest.raises(SamplingError, match=r"memory\.current"):
        sampler.sample()
    with pytest.raises(SamplingError):
        CgroupSampler(SUBJECT, Cgroup(tmp_path, tmp_path))


def test_given_limits_win_over_the_cgroup(tmp_path):
    leaf = tree(tmp_path / "cg", cpu_max="50000 100000", memory_max=4000, **usage())
    row = good_sample(CgroupSampler(Subject("shop", "h1", 3.0, 2000), Cgroup(leaf, leaf)).sample())
    assert (row["cores"], row["mem_limit_bytes"]) == (3.0, 2000)


# --- the choice


def test_auto_takes_the_cgroup_only_if_it_is_tighter(tmp_path):
    leaf = tree(tmp_path / "cg", cpu_max="max 100000", memory_max="max", **usage())
    options = SamplerOptions(proc=fake_proc(tmp_path))
    assert isinstance(make_sampler(SUBJECT, options), ProcessSampler)
    tree(leaf, memory_max=4000)
    assert isinstance(make_sampler(SUBJECT, options), CgroupSampler)
    (leaf / "memory.current").unlink()  # limits, but no usage
    assert isinstance(make_sampler(SUBJECT, options), ProcessSampler)
    assert isinstance(make_sampler(SUBJECT, SamplerOptions(proc=tmp_path / "nowhere")), ProcessSampler)


def test_auto_measures_a_process_within_its_cgroup(tmp_path):
    pid = os.getpid()
    tree(tmp_path / "cg", cpu_max="10000 100000", memory_max=2**33, **usage())
    sampler = make_sampler(SUBJECT, SamplerOptions(find=by_pid(pid), proc=fake_proc(tmp_path, pid=str(pid))))
    assert isinstance(sampler, ProcessSampler)
    row = good_sample(sampler.sample())
    assert row["cores"] == 0.1
    assert row["mem_limit_bytes"] == min(2**33, psutil.virtual_memory().total)
    assert 0 < row["mem_bytes"] < 2**33


@pytest.mark.process
def test_the_choice_by_options(tmp_path, endpoint):
    leaf = tree(tmp_path / "cg", **usage())
    proc = fake_proc(tmp_path)
    assert isinstance(make_sampler(SUBJECT, SamplerOptions("process")), ProcessSampler)
    assert isinstance(make_sampler(SUBJECT, SamplerOptions("cgroup", proc=proc)), CgroupSampler)
    assert isinstance(make_sampler(SUBJECT, SamplerOptions(cgroup=leaf, proc=proc)), CgroupSampler)
    by_url = SamplerOptions(prometheus_url=endpoint["url"])
    assert isinstance(make_sampler(SUBJECT, by_url), PrometheusSampler)
    for wrong in (SamplerOptions("guess"), SamplerOptions("prometheus"), SamplerOptions("cgroup", proc=tmp_path)):
        with pytest.raises(SamplingError):
            make_sampler(SUBJECT, wrong)


def test_a_sample_is_divided_by_when_the_counter_moved():
    trace = CpuTrace()
    for now_s, busy_s in ((10.0, 5.0), (10.4, 5.0), (10.5, 5.09), (11.0, 5.1)):
        trace.note(now_s, busy_s)
    edges, used = trace.divide(9.99, 11.01, 0.11)
    assert edges.tolist() == [10.0, 10.4, 10.5, 11.0]
    assert used == pytest.approx([0.0, 0.099, 0.011])
    trace.note(11.5, 5.2)
    edges, used = trace.divide(11.01, 11.51, 0.1)
    assert edges.tolist() == [11.0, 11.5]
    assert used == pytest.approx([0.1])


@pytest.mark.parametrize(
    "readings",
    [
        [],
        [(10.0, 5.0)],
        [(10.0, 5.0), (10.5, 4.0), (11.0, 5.5)],  # a child ended
        [(10.0, 5.0), (10.5, 9.0), (11.0, 9.1)],  # one was found
        [(10.0, 5.0), (9.5, 5.2), (11.0, 5.5)],  # the clock went back
        [(10.0, 5.0), (11.0, 5.0)],
    ],
)
def test_readings_that_do_not_fit_the_sample_are_not_used(readings):
    trace = CpuTrace()
    for each in readings:
        trace.note(*each)
    edges, used = trace.divide(10.0, 11.0, 0.5)
    assert edges.tolist() == [10.0, 11.0]
    assert used.tolist() == [0.5]
