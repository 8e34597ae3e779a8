"""What is in deploy/: units that systemd takes and that are closed to what the program does not need."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main

from fingerpost.cli import app
from fingerpost.settings import Settings
from tests.support.recipes import blocks

SYSTEMD = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
# Exposure as systemd rates it, 0 to 10; what is left open is the network, and other processes for the agent.
MOST_EXPOSED = 3.0
COMMANDS = typer.main.get_command(app).commands


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


def runnable(unit):
    """A unit as it is; the program is not installed here, anything that is will do."""
    return unit.read_text().replace("/opt/fingerpost/bin/fingerpost", "/bin/true")


def command_of(unit):
    [line] = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    return line.split()


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_there_is(unit):
    _, command, *options = command_of(unit)
    known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= known


def test_the_agents_unit_gives_a_drain_its_time():
    [stop_s] = re.findall(r"^TimeoutStopSec=(\d+)$", (SYSTEMD / "fingerpost-agent@.service").read_text(), re.MULTILINE)
    assert int(stop_s) >= 2 * Settings().agent_drain_s > 0


@needs_systemd
@pytest.mark.process
def test_the_drop_in_stops_the_agent_before_its_service(tmp_path):
    """The recipe of docs/deploy.md, by the order that systemd itself makes of it."""
    [drop_in] = blocks("deploy.md", "ini")
    (tmp_path / "shop.service").write_text("[Service]\nExecStart=/bin/true\n")
    unit = tmp_path / "fingerpost-agent@one.service"
    unit.write_text(runnable(SYSTEMD / "fingerpost-agent@.service"))
    folder = tmp_path / f"{unit.name}.d"
    folder.mkdir()
    (folder / "override.conf").write_text(drop_in)
    shown = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "debug"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout
    assert {"After: shop.service", "PartOf: shop.service"} <= set(re.findall(r"(?:After|PartOf): \S+", shown))


@needs_systemd
@pytest.mark.process
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_unit_and_finds_it_closed(unit, tmp_path):
    named = unit.name.replace("@.", "@one.")
    (tmp_path / named).write_text(runnable(unit))

    def analyze(*words):
        return subprocess.run(
            ["systemd-analyze", *words, tmp_path / named], capture_output=True, text=True, check=False
        )

    verified = analyze("verify", "--man=no")
    told = [line for line in verified.stderr.splitlines() if named in line]
    assert (verified.returncode, told) == (0, [])
    rated = analyze("security", "--offline=yes", "--no-pager")
    [level] = re.findall(r"Overall exposure level[^:]*: ([\d.]+)", rated.stdout)
    assert float(level) <= MOST_EXPOSED
