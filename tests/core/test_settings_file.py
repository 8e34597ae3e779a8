"""One file of settings: what it may say, and that the environment goes before it."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.errors import FingerpostError
from fingerpost.settings import Settings, get_settings
from fingerpost.settings.file import VARIABLE, read_settings, settings_file


@pytest.fixture
def settings_in(tmp_path, monkeypatch):
    """Writes a file into a working directory without others, and reads the settings there."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FINGERPOST_{name.upper()}", raising=False)
    monkeypatch.setenv(VARIABLE, "")

    def read(text):
        (tmp_path / "fingerpost.toml").write_text(text)
        get_settings.cache_clear()
        return get_settings()

    yield read
    get_settings.cache_clear()


def test_keys_stand_in_their_group_or_in_none(settings_in):
    found = settings_in('service = "blog"\n[routing]\nexploration = 0.005\narm_shares = { fingerpost = 1.0 }\n')
    assert found.service == "blog"
    assert found.exploration == 0.005
    assert found.arm_shares == {"fingerpost": 1.0}
    assert found.model_fields_set == {"service", "exploration", "arm_shares"}


def test_the_environment_goes_before_the_file_and_arguments_before_both(settings_in, monkeypatch):
    monkeypatch.setenv("FINGERPOST_SERVICE", "shop")
    assert settings_in('service = "blog"\nenvoy_port = 8081\n').service == "shop"
    assert get_settings().envoy_port == 8081
    assert Settings(envoy_port=8082).envoy_port == 8082


def test_the_lake_lies_in_the_home_until_it_is_put_elsewhere(settings_in, tmp_path, monkeypatch):
    assert settings_in('home = "state"\n').lake == tmp_path / "state" / "lake"
    assert settings_in('home = "state"\nlake = "shared"\n').lake == tmp_path / "shared"
    monkeypatch.setenv("FINGERPOST_LAKE", "/srv/lake")
    assert settings_in('home = "state"\n').lake == Path("/srv/lake")


def test_a_relative_home_lies_beside_the_file(settings_in, tmp_path):
    assert settings_in('home = "state"\n').home == tmp_path / "state"


def test_children_read_the_same_file_wherever_they_are_started(settings_in, tmp_path, monkeypatch):
    settings_in('service = "blog"\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    get_settings.cache_clear()
    assert get_settings().service == "blog"


def test_a_key_that_is_no_setting_is_told_with_the_nearest_name(settings_in, caplog):
    with caplog.at_level(logging.WARNING):
        settings_in('servise = "blog"\n[routing]\nexplorations = 0.1\n')
    assert "did you mean service?" in caplog.text
    assert "did you mean exploration?" in caplog.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("envoy_port = 70000\n", "fingerpost.toml: envoy_port=70000"),
        ("service = \n", "cannot be read"),
        ("exploration = 0.1\n[routing]\nexploration = 0.2\n", "sets exploration twice"),
    ],
)
def test_what_is_wrong_is_told_with_the_file(settings_in, text, told):
    with pytest.raises(FingerpostError, match=told):
        settings_in(text)


def test_a_variable_that_is_no_json_is_told(settings_in, monkeypatch):
    monkeypatch.setenv("FINGERPOST_SERVICES", "blog,shop")
    with pytest.raises(FingerpostError, match="FINGERPOST_SERVICES is no JSON"):
        settings_in("")


def test_a_named_file_must_be_there(tmp_path):
    with pytest.raises(FingerpostError, match="there is no such file"):
        settings_file({VARIABLE: str(tmp_path / "none.toml")})


@given(st.binary(max_size=200))
def test_any_bytes_are_settings_or_one_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "fingerpost.toml"
    path.write_bytes(content)
    try:
        values, unknown = read_settings(path, Settings.model_fields, ["routing"])
    except FingerpostError as error:
        assert str(path) in str(error)
    else:
        assert set(values) <= set(Settings.model_fields)
        assert not set(unknown) & set(Settings.model_fields)
