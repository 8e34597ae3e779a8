"""A PostgreSQL of our own for tests, from the system's packages; skipped with a clear word where there is none."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _tools() -> Path | None:
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if shutil.which("initdb"):
        found.append(Path(shutil.which("initdb")).parent)
    return next((folder for folder in found if (folder / "initdb").exists()), None)


@contextmanager
def running_postgres(folder: Path, port: int) -> Iterator[str]:
    """Yields the URL of an empty database; PostgreSQL refuses to run as root, so then it runs as its own user."""
    tools = _tools()
    if tools is None:
        pytest.skip("no PostgreSQL on this machine: install Debian's package `postgresql` to run this test")
    folder.mkdir(parents=True, exist_ok=True)
    prefix = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        for parent in folder.parents:
            if parent.stat().st_mode & 0o001 == 0:
                parent.chmod(parent.stat().st_mode | 0o011)
        prefix = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"

    def run(*command: str) -> None:
        subprocess.run([*prefix, *command], check=True, capture_output=True, cwd="/", timeout=60)

    run(str(tools / "initdb"), "-D", str(data), "-U", "fp", "-A", "trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    run(str(tools / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://fp@127.0.0.1:{port}/postgres"
    finally:
        run(str(tools / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
