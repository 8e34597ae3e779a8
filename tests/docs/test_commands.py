"""Commands of the documentation exist, with the options that they are given there."""

import re
import shlex

import pytest
import typer.main

from fingerpost.cli import app
from tests.support.recipes import DOCS

BLOCK = re.compile(r"^```(?:sh)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`fingerpost ([a-z][^`]*)`")
COMMANDS = typer.main.get_command(app).commands
# `[--option]` and `...` stand for what the reader may add.
PLACEHOLDERS = ("...", "[")


def called(text):
    """The words of every `fingerpost` command of a page: in code blocks, and in the text as `fingerpost ...`."""
    for line in INLINE.findall(BLOCK.sub("", text)):
        yield words_of(line)
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:^|\n|/|\$\(|[;&] ?|\w=\S+ )fingerpost (?=[a-z])(.*)", line):
                yield words_of(found[1])


def words_of(line):
    """A command line's words up to where the shell goes on, without what the reader is to put in."""
    words = shlex.split(re.split(r"[)`\"&;<>|]| #", line)[0], posix=False)
    return [word for word in words if not word.startswith(PLACEHOLDERS)]


def refusal(words):
    """Why the command line would refuse these words; empty: it would not."""
    command, *rest = words
    if command not in COMMANDS:
        return f"there is no `fingerpost {command}`"
    found = COMMANDS[command]
    while rest and rest[0] in getattr(found, "commands", {}):
        found, rest = found.commands[rest[0]], rest[1:]
    known = {option for parameter in found.params for option in parameter.opts} | {"--help"}
    unknown = [word.partition("=")[0] for word in rest if word.startswith("--") and word.partition("=")[0] not in known]
    return f"`fingerpost {command}` has no {unknown}" if unknown else ""


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_commands_of_a_page_exist(page):
    assert [problem for words in called(page.read_text()) if (problem := refusal(words))] == []


def test_a_command_that_does_not_exist_is_found():
    lines = (
        "X=1 fingerpost agnet --host a &",
        "fingerpost router \\",
        "  --hots FILE",
        "fingerpost envoy config --help",
    )
    text = "\n".join(("```sh", *lines, "```\n"))
    assert [refusal(words) for words in called(text)] == [
        "there is no `fingerpost agnet`",
        "`fingerpost router` has no ['--hots']",
        "",
    ]
