"""Real inputs that no repository can carry: tests of them run where FOREIGN_INPUTS names a folder that has them."""

import os
from pathlib import Path

import pytest


def foreign_input(name: str) -> Path:
    """The path of an input in the folder FOREIGN_INPUTS; without it the test is skipped."""
    folder = os.environ.get("FOREIGN_INPUTS")
    if not folder:
        pytest.skip("FOREIGN_INPUTS names no folder with real logs and telemetry")
    path = Path(folder) / name
    return path if path.exists() else pytest.skip(f"FOREIGN_INPUTS: there is no {name} in {folder}")
