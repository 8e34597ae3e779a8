"""The native picker loads into the Envoy that it was tested with, and refuses others with a message."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fingerpost.cli import app
from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.check import check_envoy
from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.module import (
    FLAGS,
    NAME,
    SOURCES,
    TESTED_ABI,
    TESTED_ENVOY,
    build_module,
    compile_sources,
    compiler,
    envoy_version,
)
from fingerpost.routing.envoy.upstream import Upstream

native = pytest.mark.skipif(compiler() is None, reason="there is no C compiler")


@pytest.fixture
def validate(tmp_path):
    """What Envoy says of a configuration with a module, and its exit code."""
    hosts = [Upstream("a", "127.0.0.1", 9001)]
    config = envoy_config(
        hosts, tmp_path / "log", "127.0.0.1", 1, 2, "fingerpost", table=tmp_path / "t", admin_socket=tmp_path / "s"
    )
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(config))

    def run(module, **variables):
        command = [Path(sys.executable).with_name("envoy"), "--mode", "validate", "-c", path, "-l", "info"]
        env = {**os.environ, "ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(module.parent), **variables}
        done = subprocess.run(
            [*command, "--base-id", str(os.getpid())], env=env, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    return run


@native
@pytest.mark.process
def test_the_tested_envoy_takes_the_module(validate):
    assert envoy_version().startswith(f"{TESTED_ENVOY}.")
    code, said = validate(build_module())
    assert code == 0, said
    assert f"Dynamic module ABI version {TESTED_ABI} matched" in said
    assert "fingerpost:" not in said


@native
@pytest.mark.process
def test_an_envoy_with_other_functions_is_refused(validate, tmp_path):
    """The module is built as if it had been tested with another Envoy, whose interface has another name."""
    module = tmp_path / f"lib{NAME}.so"
    wrong = ["-DTESTED_NAMES=1u", '-DENVOY_ABI_VERSION="v9.9.9"']
    compile_sources([*FLAGS, "-O0", *wrong], sorted(SOURCES.glob("*.c")), ("-shared", "-lm", "-lpthread"), module)
    code, said = validate(module)
    assert code != 0
    assert re.search(r"fingerpost: the native picker was built and tested for Envoy 1\.40 \(interface v9\.9\.9\)", said)
    assert "FINGERPOST_UNTESTED_ENVOY=1" in said
    assert "Failed to initialize dynamic module" in said
    code, said = validate(module, FINGERPOST_UNTESTED_ENVOY="1")
    assert code == 0, said
    # What Envoy itself says of another name, as a warning alone.
    assert "Dynamic module ABI version v9.9.9 is deprecated" in said


def test_another_version_is_an_error_of_the_check():
    assert check_envoy(f"{TESTED_ENVOY}.7") == check_envoy(None) == []
    for version in ("1.39.4", "1.41.0", "1.4.0", "1.400.1"):
        [found] = check_envoy(version)
        assert found.level == "error"
        assert version in found.problem
        assert TESTED_ENVOY in found.problem


@pytest.mark.process
def test_the_command_asks_the_envoy_that_is_named(tmp_path):
    config, other = tmp_path / "envoy.json", tmp_path / "other"
    config.write_text(
        json.dumps(
            envoy_config(
                [Upstream("a", "10.0.0.1", 80)], tmp_path / "l", "127.0.0.1", 1, 2, "fingerpost", table=tmp_path
            )
        )
    )
    runner = CliRunner()
    assert runner.invoke(app, ["envoy", "check", str(config)]).exit_code == 0
    other.write_text("#!/bin/sh\necho 'envoy  version: abc/1.41.2/Clean/RELEASE/BoringSSL'\n")
    other.chmod(0o755)
    done = runner.invoke(app, ["envoy", "check", str(config), "--envoy", str(other)])
    assert done.exit_code == 1
    assert "Envoy is 1.41.2" in done.stdout
    other.write_text("#!/bin/sh\necho no\n")
    done = runner.invoke(app, ["envoy", "check", str(config), "--envoy", str(other)])
    assert isinstance(done.exception, FingerpostError)
