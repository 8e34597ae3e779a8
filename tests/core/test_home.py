"""The home: for its owner alone, with a credential that is made once."""

import multiprocessing
import stat
import subprocess
import sys

import pytest

from fingerpost.environment import prefect_server_environment
from fingerpost.errors import FingerpostError
from fingerpost.home import make_home, open_to_others, own_prefect_credential, prefect_credential
from fingerpost.settings import Settings


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.process
@pytest.mark.parametrize(
    "command",
    [
        # Each makes the home before it finds out that it has nothing to do.
        [
            "agent",
            "--host",
            "h1",
            "--pid",
            "1",
            "--access-log",
            "/nowhere",
            "--sampler",
            "cgroup",
            "--cgroup",
            "/nowhere",
        ],
        ["router", "--once", "--engine-url", "http://127.0.0.1:9"],
    ],
)
def test_whatever_makes_the_home_makes_it_for_its_owner_alone(command, tmp_path):
    home = tmp_path / "made" / "home"
    env = {"FINGERPOST_HOME": str(home), "PATH": "/usr/bin:/bin"}
    subprocess.run(
        [sys.executable, "-m", "fingerpost", *command], env=env, capture_output=True, timeout=120, check=False
    )
    assert mode(home) == 0o700


def test_a_home_that_others_can_enter_is_told_of(tmp_path):
    make_home(tmp_path / "home")
    assert open_to_others(tmp_path / "home") is None
    (tmp_path / "home").chmod(0o755)
    make_home(tmp_path / "home")
    assert f"chmod 700 {tmp_path / 'home'}" in open_to_others(tmp_path / "home")


@pytest.mark.process
def test_the_credential_is_made_once_for_all_who_ask_at_the_same_time(tmp_path):
    settings = Settings(home=tmp_path / "home")
    with multiprocessing.get_context("fork").Pool(8) as pool:
        found = set(pool.map(own_prefect_credential, [settings] * 32, chunksize=1))
    assert len(found) == 1
    user, _, password = found.pop().partition(":")
    assert user == "fingerpost"
    assert len(password) >= 43
    assert mode(settings.home) == 0o700
    assert mode(settings.prefect_credential_file) == 0o600
    assert [path.name for path in settings.home.iterdir() if path.name.startswith(".")] == []
    assert own_prefect_credential(Settings(home=tmp_path / "other")) != own_prefect_credential(settings)


def test_a_credential_that_others_can_read_is_not_used(tmp_path):
    settings = Settings(home=tmp_path)
    own_prefect_credential(settings)
    settings.prefect_credential_file.chmod(0o644)
    with pytest.raises(FingerpostError, match="can be read by others"):
        own_prefect_credential(settings)
    settings.prefect_credential_file.chmod(0o600)
    settings.prefect_credential_file.write_text("nothing")
    with pytest.raises(FingerpostError, match="holds no"):
        prefect_credential(settings)


def test_a_server_elsewhere_is_never_told_the_credential_of_this_home(tmp_path):
    away = Settings(home=tmp_path, prefect_url="http://flows:4200/api")
    assert prefect_credential(away) == ""
    assert prefect_credential(away.model_copy(update={"prefect_auth": "me:secret"})) == "me:secret"
    # One that is started here nevertheless is not open.
    assert len(prefect_server_environment(away)["PREFECT_SERVER_API_AUTH_STRING"]) > 40
    assert prefect_credential(Settings(home=tmp_path, prefect_auth="me:secret")) == "me:secret"


@pytest.mark.parametrize("value", ["secret", ":secret", "me:"])
def test_a_credential_has_two_parts(value):
    with pytest.raises(ValueError, match="user:password"):
        Settings(prefect_auth=value)
