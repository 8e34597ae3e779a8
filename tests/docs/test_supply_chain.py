"""The bill of materials, and what is made of advisories against it."""

import json
import runpy
import subprocess

import pytest

from tests.support.manifests import DEPLOY

SUPPLY = runpy.run_path(str(DEPLOY / "supply_chain.py"))
KNOWN = {"name": "zipp", "version": "4.1.2", "vulns": []}
WEAK = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [
        {"id": "PYSEC-2014-8", "fix_versions": ["2.7.2"], "aliases": ["CVE-2014-0012"], "description": "..."},
        {"id": "PYSEC-0000-1", "fix_versions": [], "aliases": [], "description": "..."},
    ],
}
SKIPPED = {"name": "yarl", "skip_reason": "Dependency not found on PyPI and could not be audited: yarl (1.25.1)"}


def judged(*packages, errors=""):
    return SUPPLY["verdict"](json.dumps({"dependencies": packages, "fixes": []}), errors)


def test_a_known_weakness_fails_and_is_named_with_its_cure():
    code, lines = judged(KNOWN, WEAK, SKIPPED)
    assert code == 1
    assert lines == [
        "jinja2 2.4.1: PYSEC-2014-8, mended in 2.7.2",
        "jinja2 2.4.1: PYSEC-0000-1, mended in no version",
        "audit: 2 of 3 packages were checked, 2 weaknesses are known",
    ]


def test_what_was_checked_without_a_finding_is_counted():
    assert judged(KNOWN, SKIPPED) == (0, ["audit: 1 of 2 packages were checked, no weakness is known"])


def test_where_nothing_could_be_asked_it_says_so_and_does_not_fail():
    code, [line] = judged(SKIPPED, SKIPPED)
    assert (code, "cannot be reached, so nothing was checked" in line) == (0, True)
    for errors in (
        "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed\n",
        "Traceback ...\nrequests.exceptions.ConnectionError: no route to host\n",
        "Traceback ...\nrequests.exceptions.SSLError: certificate verify failed\n",
        str(subprocess.TimeoutExpired("pip_audit", 300)),
        "Traceback ...\npip_audit._service.interface.ServiceError\n",
    ):
        code, [line] = SUPPLY["verdict"]("", errors)
        assert (code, "nothing was checked" in line) == (0, True)


def test_a_set_that_cannot_be_read_is_no_success():
    code, [line] = SUPPLY["verdict"]("", "ERROR:pip_audit._cli:invalid requirements input: /no\n")
    assert (code, "invalid requirements input" in line) == (2, True)
    assert SUPPLY["verdict"]("[]", "")[0] == 2


@pytest.mark.process
def test_the_bill_names_every_package_once_and_no_index(tmp_path):
    (pinned := tmp_path / "pinned.txt").write_text("zipp==4.1.2\ntzdata==2026.6 ; sys_platform == 'win32'\n")
    made = SUPPLY["bill"](pinned, "9.9.9")
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    own = made["metadata"]["component"]
    assert (own["name"], own["version"]) == ("fingerpost", "9.9.9")
    found = {each["purl"] for each in made["components"]}
    assert found == {"pkg:pypi/zipp@4.1.2", "pkg:pypi/tzdata@2026.6"}
    assert "://" not in json.dumps(made["components"])
