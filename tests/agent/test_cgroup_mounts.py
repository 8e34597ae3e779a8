"""Mounts in any order, of anybody, and damaged ones: a process's cgroup is found where it is, or said not to be."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.agent.sampling.base import SamplingError
from fingerpost.agent.sampling.hierarchies import hierarchies

FILE = "cgroup.procs"
NAME = "/system.slice/shop one.service"
foreign = st.one_of(
    st.sampled_from(
        [
            "30 1 0:1 / /sys rw - sysfs sysfs rw",
            "31 1 0:2 / /run/cilium/cgroupv2 rw - cgroup2 none rw",
            "32 1 0:2 /../.. /host/cgroup rw - cgroup2 cgroup2 rw",
            "33 1 0:3 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
            "34 1 0:3 /kubepods /dev/shm\\040x rw - cgroup2 cgroup2 rw",
            "35 1 0:4 / /nul\\000 rw - cgroup2 cgroup2 rw",
        ]
    ),
    st.text(st.characters(codec="utf-8"), max_size=60),
    st.lists(st.sampled_from(["1", "0:2", "/", "-", "rw", "cgroup", "cgroup2", "\\040", "\\777", ""]), max_size=9).map(
        " ".join
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("cgroups")
    for name in ("mine", "mine" + NAME, "others"):
        (made / name).mkdir(parents=True)
        (made / name / FILE).touch()
    (made / "proc" / "self").mkdir(parents=True)
    return made


def found_in(folder: Path, mounts: list[str], names: str) -> Path:
    (folder / "proc" / "self" / "mountinfo").write_text("\n".join(mounts) + "\n", "utf-8")
    (folder / "proc" / "self" / "cgroup").write_text(names, "utf-8")
    return hierarchies(folder / "proc", None).folder("", FILE)[0]


@given(st.lists(foreign, max_size=5), st.lists(foreign, max_size=5))
def test_a_cgroup_is_found_among_foreign_mounts(folder, before, after):
    mine = f"40 1 0:9 / {folder}/mine rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
    others = f"41 1 0:9 / {folder}/others rw - cgroup2 none rw"
    found = found_in(folder, [*before, others, mine, *after], f"12:cpuset:/x\n0::{NAME}\n")
    assert found == folder / f"mine{NAME}"


@given(
    st.lists(foreign, max_size=6), st.one_of(st.text(st.characters(codec="utf-8"), max_size=60), st.just("0::/../x"))
)
def test_without_it_a_reason_is_given(folder, mounts, names):
    try:
        found = found_in(folder, mounts, names)
    except SamplingError as error:
        assert str(error)
    else:
        assert (found / FILE).is_file()
