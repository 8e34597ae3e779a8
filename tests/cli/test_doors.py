"""The doors of a running platform: what a web page that is open on the machine, or another user of it, can do."""

import time

import httpx
import pytest

from fingerpost.home import own_prefect_credential
from fingerpost.settings import Settings
from tests.support.up_harness import RunningUp

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """MLflow, Prefect and schedules, as `fingerpost up` runs them."""
    only = [option for name in ("mlflow", "prefect", "schedule") for option in ("--only", name)]
    running = RunningUp(tmp_path_factory.mktemp("doors"), *only, fresh=True)
    running.wait_for("Ctrl-C stops everything")
    yield running
    running.end()


def evil(method, url, **request):
    """What a page of another site can send."""
    headers = {"origin": "http://evil.example", **request.pop("headers", {})}
    return httpx.request(method, url, headers=headers, trust_env=False, timeout=30, **request)


def test_nobody_but_the_owner_makes_prefect_run_anything(up):
    api, settings = f"http://127.0.0.1:{up.ports['PREFECT']}/api", Settings(home=up.home)
    assert f"it asks for a credential, which is in {settings.prefect_credential_file}" in up.told()
    mine = httpx.Client(
        base_url=api, auth=tuple(own_prefect_credential(settings).split(":")), trust_env=False, timeout=30
    )
    deadline, found = time.monotonic() + 120, []
    while not found and time.monotonic() < deadline:
        found = [
            each
            for each in mine.post("/deployments/filter", json={}).json()
            if each["entrypoint"].startswith("fingerpost.flows.pipeline.")
        ]
    [deployment] = found
    place = f"/deployments/{deployment['id']}"
    asked = {"access-control-request-method": "PATCH"}
    preflight = evil("OPTIONS", f"{api}{place}", headers=asked)
    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in preflight.headers
    steps = {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": f"touch {up.home}/proof"}}]}
    for method, path, body in (
        ("POST", "/deployments/filter", {}),
        ("PATCH", place, steps),
        ("POST", f"{place}/create_flow_run", {"state": {"type": "SCHEDULED"}}),
    ):
        for headers in ({}, {"authorization": "Basic ZXZpbDpldmls"}, {"host": f"evil.example:{up.ports['PREFECT']}"}):
            answer = evil(method, f"{api}{path}", json=body, headers=headers)
            assert (answer.status_code, answer.json()) == (401, {"exception_message": "Unauthorized"})
            assert "access-control-allow-origin" not in answer.headers
    assert mine.get(place).json()["pull_steps"] == deployment["pull_steps"]
    # The server's own page works for the owner: it is told to ask, and its origin may call.
    own = f"http://localhost:{up.ports['PREFECT']}"
    assert httpx.get(f"{own}/ui-settings", trust_env=False).json()["auth"] == "BASIC"
    same = mine.post("/deployments/filter", json={}, headers={"origin": own})
    assert same.headers["access-control-allow-origin"] == own


def test_commands_of_the_home_have_the_credential_and_others_hear_why_not(up):
    assert up.call("run", "retention").returncode == 0
    up.env["FINGERPOST_PREFECT_AUTH"] = "fingerpost:wrong"
    try:
        done = up.call("run", "retention")
    finally:
        del up.env["FINGERPOST_PREFECT_AUTH"]
    assert done.returncode == 1
    assert "asks for another credential than it was given: FINGERPOST_PREFECT_AUTH" in done.stderr


def test_no_web_page_changes_models(up):
    place = f"http://127.0.0.1:{up.ports['MLFLOW']}/api/2.0/mlflow/registered-models"
    form = {"content-type": "text/plain"}
    for origin in ("http://evil.example", "null"):
        answer = evil("POST", f"{place}/create", content='{"name": "evil"}', headers={**form, "origin": origin})
        assert answer.status_code == 403, origin
    for host in ("evil.example", "10.evil.example", "192.168.evil.example:80", "127.0.0.1.evil.example"):
        assert evil("GET", f"{place}/search", headers={"host": host}).status_code == 403, host
    for host in ("localhost:15000", f"[::1]:{up.ports['MLFLOW']}"):
        found = httpx.get(f"{place}/search", headers={"host": host}, trust_env=False)
        assert found.status_code == 200, host
        assert "evil" not in found.text


def test_the_secret_is_told_to_nobody_and_the_home_is_its_owners(up):
    password = own_prefect_credential(Settings(home=up.home)).partition(":")[2]
    assert all(password not in " ".join(each.cmdline()) for each in up.family())
    for log in [up.told_file, *(up.home / "logs").iterdir()]:
        assert password not in log.read_text(errors="replace"), log
    made = [path for path in up.home.rglob("*") if path not in (up.told_file, up.home / "hosts")]
    assert [path for path in made if not path.is_symlink() and path.lstat().st_mode & 0o007] == []
