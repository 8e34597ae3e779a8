"""A Bento serves its model with nothing but what it asks for: no registry, no program beside it, no other packages."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fingerpost.engine_api import EngineClient, EngineError
from tests.support.made_fleet import MadeFleet, fit_model, register_model
from tests.support.server_harness import kill_family

pytestmark = pytest.mark.process

PATIENCE_S = 90
# Read by every process that is started with its folder in PYTHONPATH: finds all packages but some.
WITHOUT = """
import sys

class Without:
    names = frozenset({names})

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        absent = name.partition(".")[0] in self.names
        return None if absent else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(each) for each in sys.meta_path]
"""


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def with_dependencies(wanted):
    """The normalised names of distributions that come with some, themselves among them."""
    found, left = set(), [Requirement(each) for each in wanted]
    while left:
        each = left.pop()
        marks = [{"extra": extra} for extra in ("", *each.extras)]
        if each.marker is not None and not any(each.marker.evaluate(mark) for mark in marks):
            continue
        if (normal(each.name), frozenset(each.extras)) in found:
            continue
        found.add((normal(each.name), frozenset(each.extras)))
        try:
            told = [Requirement(line) for line in requires(each.name) or ()]
        except PackageNotFoundError:  # for another platform
            continue
        left += [one for one in told if one.marker is None or any(one.marker.evaluate(mark) for mark in marks)]
    return {name for name, _ in found}


def absent_packages(requirements):
    """The packages of this environment that an environment of these requirements has not."""
    there = with_dependencies(requirements)
    names = {
        package
        for package, distributions in packages_distributions().items()
        if not any(normal(each) in there for each in distributions)
    }
    return sorted(names - {"fingerpost", "sitecustomize"})


@pytest.fixture(scope="module")
def made():
    return MadeFleet.make(6, 5)


@pytest.fixture(scope="module")
def bento(tmp_path_factory, made):
    """The folder of a Bento of the champion, as `fingerpost deploy` builds it."""
    home = tmp_path_factory.mktemp("deploy")
    registry = f"sqlite:///{home / 'mlflow.db'}"
    register_model(fit_model(made, 6, 8), registry, "fingerpost-shop")
    env = {"FINGERPOST_HOME": str(home / "home"), "FINGERPOST_MLFLOW_URL": registry, "FINGERPOST_SERVICE": "shop"}
    told = subprocess.run(
        [sys.executable, "-m", "fingerpost", "deploy", "--json"], env={**os.environ, **env}, check=True,
        capture_output=True, timeout=PATIENCE_S,
    ).stdout  # fmt: skip
    built = json.loads(told)
    assert built["tag"] == "fingerpost-engine:model-1"
    return Path(built["path"])


def test_a_bento_serves_its_model_with_what_it_asks_for(bento, made, free_ports, tmp_path):
    requirements = (bento / "env/python/requirements.txt").read_text().split()
    absent = absent_packages(requirements)
    assert {"evidently", "hypothesis", "optuna"} <= set(absent)
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(names=absent))
    (port,) = free_ports(1)
    env = {name: value for name, value in os.environ.items() if not name.startswith("FINGERPOST_")}
    env |= {"PYTHONPATH": str(tmp_path), "BENTOML_HOME": str(tmp_path / "bentoml"), "HOME": str(tmp_path)}
    env |= {"FINGERPOST_HOME": str(tmp_path / "home"), "FINGERPOST_MODEL_VERSION": "1", "FINGERPOST_SERVICE": "shop"}
    env |= {"FINGERPOST_BIND_HOST": "127.0.0.1", "DO_NOT_TRACK": "true"}
    log = tmp_path / "bento.log"
    command = [sys.executable, "-m", "bentoml", "serve", str(bento), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=env, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + PATIENCE_S

    def wait_for(answer, wanted):
        last = None
        while last != wanted:
            assert process.poll() is None and time.monotonic() < deadline, (last, log.read_text()[-3000:])
            time.sleep(0.1)
            with contextlib.suppress(EngineError):
                last = answer()

    try:
        with EngineClient(f"http://127.0.0.1:{port}") as client:
            wait_for(lambda: client.models()["models"][0]["version"], "1")
            assert client.send_reports(made.packed(1))["accepted"] == len(made.hosts)
            wait_for(lambda: client.predict("shop", hosts=[made.hosts[0]])["source"], "champion")
    finally:
        kill_family(process)
    assert "compiled trees" not in log.read_text()
