"""What is in deploy/: units that systemd takes and that are closed to what the program does not need."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main

from fingerpost.cli import app

UNITS = sorted((Path(__file__).parents[2] / "deploy" / "systemd").glob("*.service"))
# Exposure as systemd rates it, 0 to 10; what is left open is the network, and other processes for the agent.
MOST_EXPOSED = 3.0
COMMANDS = typer.main.get_command(app).commands


def command_of(unit):
    [line] = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    return line.split()


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_there_is(unit):
    _, command, *options = command_of(unit)
    known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= known


@pytest.mark.process
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_unit_and_finds_it_closed(unit, tmp_path):
    named = unit.name.replace("@.", "@one.")
    # The program is not installed here; anything that is will do.
    (tmp_path / named).write_text(unit.read_text().replace("/opt/fingerpost/bin/fingerpost", "/bin/true"))

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
