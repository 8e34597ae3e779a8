"""Every command that our programs start exists: a story that takes ten minutes is no place to find that out."""

import ast
import importlib.util
from pathlib import Path

import pytest
import typer.main

from examples.demo.__main__ import app as demo_app
from fingerpost.cli import app as fingerpost_app

ROOT = Path(__file__).parents[2]
SUBCOMMANDS = {"demo_module": demo_app, "fingerpost": fingerpost_app}
MODULES = ("python_module", "example_module")


def started():
    """Every call of the functions that make commands, with its first argument: function, word, place."""
    for folder in ("agent", "benchmarks", "cli", "examples", "flows", "serving"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            tuples = {
                target.id: node.value.elts[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and node.value.elts
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(tree):
                name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
                if name not in (*SUBCOMMANDS, *MODULES) or not node.args:
                    continue
                first = node.args[0]
                if isinstance(first, ast.Starred) and isinstance(first.value, ast.Name):
                    first = tuples.get(first.value.id, first)
                if isinstance(first, ast.Constant):
                    yield pytest.param(name, first.value, id=f"{path.relative_to(ROOT)}:{node.lineno}")


@pytest.mark.parametrize(("function", "word"), started())
def test_a_started_command_exists(function, word):
    if function in SUBCOMMANDS:
        assert word in typer.main.get_command(SUBCOMMANDS[function]).commands
    else:
        assert runnable(word)


def runnable(module):
    """Whether `python -m` finds it; nothing is imported."""
    package, *rest = module.split(".")
    roots = importlib.util.find_spec(package).submodule_search_locations
    places = [Path(root, *rest) for root in roots]
    return any(place.with_suffix(".py").is_file() or (place / "__main__.py").is_file() for place in places)


def test_the_scan_finds_the_commands_of_the_demo():
    words = {param.values for param in started()}
    assert {("demo_module", "load"), ("fingerpost", "router"), ("example_module", "examples.demo.new_story")} <= words
