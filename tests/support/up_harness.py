"""`fingerpost up` for tests."""

import os
import signal
import subprocess
import sys
import time

import psutil

from fingerpost.cli.stack.ports import free_ports as find_ports
from tests.support.databases import lend_databases


class RunningUp:
    """`fingerpost up` as a user starts it, with ports and a home of its own.

    Args:
        fresh: it makes its databases itself.
    """

    def __init__(self, home, *arguments, fresh=False, **env):
        self.home = home
        self.ports = dict(zip(("MLFLOW", "PREFECT", "ENGINE", "ENVOY", "ENVOY_ADMIN"), find_ports(5), strict=True))
        if not fresh:
            lend_databases(home)
        (home / "hosts").write_text("h1=127.0.0.1:9\n# a remark\n")
        self.env = {
            **os.environ,
            "FINGERPOST_HOME": str(home),
            "FINGERPOST_DISK_LOW_MB": "0",
            **{f"FINGERPOST_{name}_PORT": str(port) for name, port in self.ports.items()},
            **env,
        }
        self.told_file = home / f"told-{time.monotonic_ns()}"
        with self.told_file.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fingerpost", "up", *arguments],
                env=self.env,
                cwd=home,
                stdout=output,
                stderr=output,
            )

    def told(self):
        return self.told_file.read_text()

    def wait_for(self, text, count=1, timeout_s=180):
        deadline = time.monotonic() + timeout_s
        while self.told().count(text) < count:
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.1)

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def call(self, *arguments):
        """Another command in the same home."""
        return subprocess.run(
            [sys.executable, "-m", "fingerpost", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def end(self, how=signal.SIGINT):
        self.process.send_signal(how)
        return self.process.wait(60)
