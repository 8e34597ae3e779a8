"""Finds the folder of a cgroup: where the hierarchies of cgroups are mounted, and what a process's are called there."""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fingerpost.agent.sampling.base import SamplingError

_USUAL = Path("/sys/fs/cgroup")
_VERSION_2 = "cgroup2"


@dataclass(frozen=True)
class Mount:
    """Where a hierarchy is mounted.

    Args:
        root: the folder.
        shows: which cgroup's folder that is.
        controllers: of version 1; empty: version 2.
    """

    root: Path
    shows: str
    controllers: frozenset[str]

    def controls(self, name: str) -> bool:
        """Whether it is the hierarchy of a controller, or, without one, that of version 2."""
        return name in self.controllers if name else not self.controllers


@dataclass(frozen=True)
class Hierarchies:
    """What the kernel says of cgroups.

    Args:
        mounts: all of them, the usual place first.
        names: of a process's cgroups, by controller; that of version 2 by none. Empty: no process is meant.
        own: the process is this one.
    """

    mounts: list[Mount]
    names: dict[str, str]
    own: bool = False

    def folder(self, controller: str, file: str, given: Path | None = None) -> tuple[Path, Path]:
        """A cgroup's folder, and the uppermost that is seen above it, in the first mount that holds the cgroup.

        Networks and runtimes mount hierarchies in places of their own as well.

        Args:
            controller: of version 1; empty: version 2.
            file: that the folder of any cgroup has.
            given: a cgroup, as its folder or as its name; None: the process's.

        Raises:
            SamplingError: no such hierarchy is mounted, or the cgroup is not in it.
        """
        version = f"version 1, {controller}" if controller else "version 2"
        fitting = [each for each in self.mounts if each.controls(controller)]
        if not fitting:
            raise SamplingError(f"no cgroup ({version}) hierarchy is mounted here")
        if given is None and controller not in self.names:
            raise SamplingError(f"the process is in no cgroup of {version}")
        tried = []
        for mount in fitting:
            if given is not None:
                folder = given if (given / file).is_file() else mount.root / str(given).lstrip("/")
            else:
                folder = mount.root / _relative(self.names[controller], mount.shows)
            folder = Path(os.path.normpath(folder))
            if (folder / file).is_file():
                return folder, mount.root if folder.is_relative_to(mount.root) else folder
            tried.append(str(folder))
        # A container that sees the machine's name of its cgroup but only its own folder.
        own = next((each.root for each in fitting if (each.root / file).is_file()), None)
        if given is None and self.own and own is not None:
            return own, own
        raise SamplingError(f"no cgroup ({version}) at {' or '.join(tried)}")


def hierarchies(proc: Path, pid: int | None, named: bool = True) -> Hierarchies:
    """What the kernel says of the cgroups of a process.

    Args:
        proc: where it does.
        pid: None: this process.
        named: whether the process's cgroups are asked for.

    Raises:
        SamplingError: it does not.
    """
    names = _names(proc / (str(pid) if pid else "self") / "cgroup") if named else {}
    return Hierarchies(_mounts(proc), names, pid is None)


def _mounts(proc: Path) -> list[Mount]:
    try:
        lines = (proc / "self" / "mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise SamplingError(f"cannot read the mounts: {error}") from error
    found = []
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) > 4 and kind[0] in ("cgroup", _VERSION_2):
            controllers = frozenset() if kind[0] == _VERSION_2 else frozenset(kind[-1].split(","))
            found.append(Mount(Path(_plain(fields[4])), _plain(fields[3]), controllers))
    return sorted(found, key=lambda each: not each.root.is_relative_to(_USUAL))


def _plain(text: str) -> str:
    """A path of mountinfo, where a blank is `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _names(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise SamplingError(f"cannot read {path}: {error}") from error
    found: dict[str, str] = {}
    for line in lines:
        controllers, _, name = line.partition(":")[2].partition(":")
        found.update(dict.fromkeys(controllers.split(","), name.removesuffix(" (deleted)")))
    return found


def _relative(name: str, mounted: str) -> str:
    if "/../" in f"{name}/":
        raise SamplingError(f"the cgroup {name} is outside of what can be seen from here")
    path = PurePosixPath(name)
    return str(path.relative_to(mounted)) if path.is_relative_to(mounted) else name.lstrip("/")
