"""Follows the steps of a Containerfile in bare roots: debootstrap for its base, chroot for its steps. Needs root."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

# What a builder behind a mirror lends to the steps: pip's settings, and the folders and files that these name.
_PIP = "PIP_"
_LENT_FILES = ("/etc/resolv.conf", "/etc/hosts")
# The authorities that this machine trusts lie beside those of the root, which its packages write.
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
_LENT_AUTHORITIES = "/run/authorities.crt"
_MIRROR = "http://deb.debian.org/debian"
_STEP_S = 1800


@dataclass
class Stage:
    """What a `FROM` begins: its base, its steps in order, and what an image of it would start with."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str:
        """The last of its own steps of a kind; empty: there is none."""
        return next((text for kind, text in reversed(self.steps) if kind == instruction), "")

    def command(self, instruction: str) -> list[str]:
        """`ENTRYPOINT` or `CMD`, in their form as a list."""
        text = self.last(instruction)
        return [*json.loads(text)] if text else []

    def healthcheck(self) -> list[str]:
        """The command of `HEALTHCHECK`."""
        return [*json.loads(self.last("HEALTHCHECK").partition("CMD ")[2])]


def stages_of(containerfile: Path) -> dict[str, Stage]:
    """The stages of a Containerfile by name, in order."""
    lines = (line for line in containerfile.read_text().splitlines() if not line.lstrip().startswith("#"))
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        kind, _, rest = line.partition(" ")
        if kind == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = Stage(name, base)
            continue
        [*found.values()][-1].steps.append((kind, rest.strip()))
    return found


class Builder:
    """Builds stages as folders.

    Args:
        containerfile: the steps.
        context: what `COPY` copies from.
        folder: where the roots are made; it must be on a file system that takes devices and owners.
    """

    def __init__(self, containerfile: Path, context: Path, folder: Path) -> None:
        self.stages = stages_of(containerfile)
        self._context, self._folder = context, folder
        self._environments: dict[str, dict[str, str]] = {}

    def environment(self, stage: str) -> dict[str, str]:
        """The variables of an image of a stage."""
        return self._environments[stage]

    def root(self, stage: str) -> Path:
        """The root of a stage, made if it is not there."""
        root = self._folder / stage.replace(":", "-")
        if stage in self._environments:
            return root
        if stage not in self.stages:
            distribution, _, release = stage.partition(":")
            assert distribution == "debian", f"the base {stage} is not known here"
            suite = release.removesuffix("-slim")
            subprocess.run(
                ["debootstrap", "--variant=minbase", suite, str(root), _MIRROR],
                check=True, capture_output=True, timeout=_STEP_S,
            )  # fmt: skip
            self._environments[stage] = {}
            return root
        made = self.stages[stage]
        base = self.root(made.base)
        began = time.monotonic()
        subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(root)], check=True)
        environment, folder = dict(self._environments[made.base]), "/"
        for other in self._ancestors(stage):
            folder = other.last("WORKDIR") or folder
        for kind, text in made.steps:
            if kind == "ENV":
                environment |= dict(pair.split("=", 1) for pair in shlex.split(text))
            elif kind == "WORKDIR":
                folder = text
                self._inside(root, text).mkdir(parents=True, exist_ok=True)
            elif kind == "COPY":
                self._copy(root, folder, text)
            elif kind == "RUN":
                step = [*chroot(root, "0:0", folder), "/bin/sh", "-c", text]
                done = subprocess.run(
                    step, env=_lent(environment), capture_output=True, text=True, timeout=_STEP_S, check=False
                )
                assert done.returncode == 0, f"{stage}: RUN {text}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
            else:
                assert kind in ("USER", "HEALTHCHECK", "ENTRYPOINT", "CMD"), f"{kind} is not followed here"
        self._environments[stage] = environment
        print(f"{stage}: {_megabytes(root):.0f} MB, {time.monotonic() - began:.0f} s after {made.base}", flush=True)
        return root

    def start(self, stage: str, command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a command in the root of a stage, as its user, with nothing but its variables and these."""
        made = self.stages[stage]
        user = made.last("USER")
        assert user, f"{stage} would run as root"
        with log.open("wb") as output:
            return subprocess.Popen(
                [*chroot(self.root(stage), user, self.environment(stage).get("FINGERPOST_HOME", "/")), *command],
                env=self.environment(stage) | environment,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def healthy(self, stage: str) -> bool:
        """Whether the stage's health check succeeds now."""
        command = chroot(self.root(stage), self.stages[stage].last("USER"), "/") + self.stages[stage].healthcheck()
        return subprocess.run(command, env=self.environment(stage), capture_output=True, check=False).returncode == 0

    def _ancestors(self, stage: str) -> list[Stage]:
        found = []
        while stage in self.stages:
            found.append(self.stages[stage])
            stage = self.stages[stage].base
        return [*reversed(found[1:])]

    def _copy(self, root: Path, folder: str, text: str) -> None:
        *sources, target = shlex.split(text)
        context = self._context
        if sources[0].startswith("--from="):
            context = self.root(sources.pop(0).removeprefix("--from="))
        into = self._inside(root, target if target.startswith("/") else f"{folder}/{target}")
        for source in sources:
            path = context / source.lstrip("/")
            if path.is_dir():
                shutil.copytree(path, into, symlinks=True, dirs_exist_ok=True)
            else:
                place = into / path.name if target.endswith("/") else into
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, place)

    @staticmethod
    def _inside(root: Path, path: str) -> Path:
        return root / path.lstrip("/")


def chroot(root: Path, user: str, folder: str) -> list[str]:
    """The beginning of a command that runs in a root, with its own mounts, which go when it ends."""
    lent = {path: path for path in [*_LENT_FILES, *_pip_paths()]} | {_AUTHORITIES: _LENT_AUTHORITIES}
    mounts = ["mount --make-rprivate /", f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
    for path, target in lent.items():
        place = root / target.lstrip("/")
        if not Path(path).exists():
            continue
        if Path(path).is_dir():
            mounts.append(f"mkdir -p {place}")
        else:
            mounts.append(f"mkdir -p {place.parent} && touch {place}")
        mounts.append(f"mount --bind {path} {place}")
    inner = f'cd {shlex.quote(folder)} 2>/dev/null; exec "$@"'
    script = " && ".join(mounts) + f' && exec chroot --userspec={user} {root} /bin/sh -c {shlex.quote(inner)} sh "$@"'
    return ["unshare", "--mount", "/bin/sh", "-c", script, "sh"]


def stop(process: subprocess.Popen[bytes]) -> int:
    """Asks a process and its group to end, and waits for it."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        return process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait(10)


def _pip_settings() -> dict[str, str]:
    """pip's settings of this machine as variables."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        found[_PIP + name.rpartition(".")[2].upper().replace("-", "_")] = value.strip("'")
    return found


def _pip_paths() -> list[str]:
    """Files and folders of this machine that pip's settings name."""
    words = " ".join(value for name, value in _pip_settings().items() if name != "PIP_CERT").split()
    paths = [word.removeprefix("file://") for word in words]
    # An index refers to files beside it.
    return sorted(
        {str(Path(path).parent) if Path(path).name == "simple" else path for path in paths if path[:1] == "/"}
    )


def _lent(environment: dict[str, str]) -> dict[str, str]:
    lent = {"DEBIAN_FRONTEND": "noninteractive", "PIP_CERT": _LENT_AUTHORITIES, "SSL_CERT_FILE": _LENT_AUTHORITIES}
    return _pip_settings() | lent | environment


def _megabytes(root: Path) -> float:
    done = subprocess.run(["du", "-sxk", str(root)], capture_output=True, text=True, check=False)
    return int(done.stdout.split()[0]) * 1024 / 1e6
