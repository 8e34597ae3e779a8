"""A PostgreSQL of our own for tests, from the system's packages; skipped with a clear word where there is none."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Postgres:
    """A database server on the loopback; PostgreSQL refuses to run as root, so then it runs as its own user.

    Args:
        folder: for its data; made.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"postgresql://fp@127.0.0.1:{port}/postgres"
        self._tools, self._data, self._log = _tools(), folder / "data", folder / "log"
        self._prefix: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
            for parent in folder.parents:
                if parent.stat().st_mode & 0o001 == 0:
                    parent.chmod(parent.stat().st_mode | 0o011)
            self._prefix = ["runuser", "-u", "postgres", "--"]
        self._options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("initdb", "-U", "fp", "-A", "trust", "--no-sync")

    def start(self) -> None:
        self._run("pg_ctl", "-w", "-l", str(self._log), "-o", self._options, "start")

    def stop(self) -> None:
        """Ends it at once, as a crash would, if it runs."""
        if (self._data / "postmaster.pid").exists():
            self._run("pg_ctl", "-m", "immediate", "stop")

    def _run(self, tool: str, *arguments: str) -> None:
        command = [*self._prefix, str(self._tools / tool), "-D", str(self._data), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120, check=False)
        assert done.returncode == 0, f"{tool}: {done.stdout}{done.stderr}"


@contextmanager
def running_postgres(folder: Path, port: int) -> Iterator[Postgres]:
    """Yields a running server with an empty database."""
    server = Postgres(folder, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _tools() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4), reverse=True)
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).parent)
    for folder in found:
        if (folder / "initdb").exists():
            return folder
    pytest.skip("no PostgreSQL on this machine: install Debian's package `postgresql` to run this test")
