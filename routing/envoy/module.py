"""Builds the native picker, an Envoy dynamic module of a few small C files, at set-up or at first use."""

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fingerpost.environment import python_module
from fingerpost.errors import FingerpostError

NAME = "fingerpost"
# The Envoy that the module is written for and tested with, and how that calls its interface for modules. Into any other
# Envoy the module refuses to load (routing/native/abi.c).
TESTED_ENVOY, TESTED_ABI = "1.40", "v0.2.0"
SOURCES = Path(__file__).parents[1] / "native"
FLAGS = (
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow"),
    *("-fPIC", "-fvisibility=hidden", "-fstack-protector-strong"),
)
_LINK = ("-shared", "-Wl,-z,relro,-z,now", "-lm", "-lpthread")
_HARDENED = "-D_FORTIFY_SOURCE=2"


def compiler() -> list[str] | None:
    """A C compiler: `$CC`, `cc`, `gcc`, `clang`, or the one of the PyPI package `ziglang`; None if there is none."""
    chosen = os.environ.get("CC")
    if chosen:
        return chosen.split()
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang"):
        return python_module("ziglang", "cc")
    return None


def envoy_version(path: Path | None = None) -> str | None:
    """The version of an Envoy; None if there is none, or it does not say.

    Args:
        path: of the program; None: the one beside this Python, else the one on the path.
    """
    beside = path or Path(sys.executable).with_name("envoy")
    command = str(beside) if path or beside.exists() else shutil.which("envoy")
    if command is None:
        return None
    try:
        done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"/(\d+\.\d+\.\d+)[-/]", done.stdout)
    return found.group(1) if found else None


def module_path() -> Path:
    """Where the built module is: in the user's cache, one folder for each state of the sources and kind of machine."""
    digest = hashlib.sha256(" ".join((*FLAGS, *_LINK, platform.machine())).encode())
    for path in sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]):
        digest.update(path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "fingerpost" / f"native-{digest.hexdigest()[:16]}" / f"lib{NAME}.so"


def build_module() -> Path:
    """The module's path; compiles it if this state of the sources was not compiled on this machine yet.

    Raises:
        FingerpostError: there is no compiler, it failed, or the sources are missing.
    """
    if not [*SOURCES.glob("*.c")]:
        raise FingerpostError(
            f"the sources of the native picker are missing: {SOURCES} holds no *.c; install fingerpost anew"
        )
    path = module_path()
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its place and moved there, so that two builds at once do not meet.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        compile_sources([*FLAGS, _HARDENED], sorted(SOURCES.glob("*.c")), _LINK, built)
        built.replace(path)
    return path


def compile_sources(flags: Sequence[str], sources: Sequence[Path], link: Sequence[str], output: Path) -> None:
    """Compiles C sources.

    Raises:
        FingerpostError: there is no compiler, or it failed.
    """
    command = compiler()
    if command is None:
        raise FingerpostError(
            "the native picker needs a C compiler: install gcc or clang, or `pip install ziglang`, which carries one"
        )
    # Zig's compiler defines the macro itself.
    chosen = [flag for flag in flags if flag != _HARDENED or "ziglang" not in command]
    done = subprocess.run(
        [*command, *chosen, *map(str, sources), *link, "-o", str(output)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise FingerpostError(f"the native picker does not compile with {command[0]}:\n{done.stderr[-2000:]}")
