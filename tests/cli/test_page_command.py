"""What `fingerpost page` is given wrongly is refused before it serves, with what to do."""

import socket

import pytest
from typer.testing import CliRunner

from fingerpost.cli import app
from fingerpost.engine_api import Answer, EngineError, checked
from fingerpost.serving.page.stage import Stage

NOWHERE = ["--engine-url", "http://127.0.0.1:9"]


def refusal(*arguments):
    return str(CliRunner().invoke(app, ["page", *map(str, arguments)]).exception)


def test_a_story_that_is_not_there_is_refused(tmp_path):
    missing = tmp_path / "stage.json"
    assert f"there is no story in {missing}: write a stage there first" in refusal(*NOWHERE, "--story", missing)
    assert f"there is no story in {tmp_path}" in refusal(*NOWHERE, "--story", tmp_path)
    missing.write_text('{"number": 1}')
    said = refusal(*NOWHERE, "--story", missing)
    assert f"{missing} tells of no stage: it must be a JSON object with number, of, title" in said


def test_a_frozen_page_needs_a_place_and_no_server(tmp_path):
    there = tmp_path / "page.html"
    assert f"--freeze {tmp_path}: name a file" in refusal(*NOWHERE, "--freeze", tmp_path)
    assert "in a folder that there is" in refusal(*NOWHERE, "--freeze", tmp_path / "none" / "page.html")
    for words in (["--story", there], ["--open"], ["--port", "3999"]):
        assert "--freeze writes a file and ends" in refusal(*NOWHERE, "--freeze", there, *words)


def test_an_engine_without_a_host_is_refused():
    assert "the engine's URL 'http://' names no host" in refusal("--engine-url", "http://")


def test_a_web_page_is_no_answer_of_an_engine():
    headers = {"content-type": "text/html; charset=utf-8"}
    with pytest.raises(EngineError, match=r"404: this is a web page, no answer of an engine: is the URL that of one\?"):
        checked(Answer(404, headers, b"<html><body>File not found</body></html>"))


@pytest.mark.process
def test_a_port_in_use_is_named(tmp_path):
    story = tmp_path / "stage.json"
    Stage(1, 2, "a", "b", "", "fleet", 0.0).write(story)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refusal(*NOWHERE, "--story", story, "--port", port)
    assert f"port {port} (page) is in use" in said
    assert "FINGERPOST_PAGE_PORT, or give --port" in said
