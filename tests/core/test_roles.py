"""Roles are the extras of the distribution: what each needs, which caps stay, and who imports whom."""

import sys
from importlib.metadata import distribution, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fingerpost.roles import absent, installed_version, requirements

ROOMS = {"abtest", "agent", "cli", "features", "flows", "middleware", "routing", "serving", "simulator", "training"}


def test_a_role_has_what_the_base_and_the_roles_within_it_have():
    assert requirements() == {"msgpack": "msgpack>=1.2"}
    assert set(requirements("router")) < set(requirements("gateway")) < set(requirements("platform"))
    assert requirements("postgres")["psycopg"].startswith("psycopg[binary]>=")
    assert requirements("platform")["pandas"] == "pandas>=3.0,<3.1" or "<3.1" in requirements("platform")["pandas"]
    assert requirements("no-such-role") == requirements()


@pytest.mark.parametrize("role", ["agent", "router", "gateway", "engine", "platform", "dask", "postgres"])
def test_what_a_role_needs_is_what_its_metadata_says(role):
    written = [Requirement(line) for line in requires("fingerpost") or []]
    wanted = {each.name for each in written if each.marker is None or each.marker.evaluate({"extra": role})}
    assert wanted - {"fingerpost"} <= set(requirements(role))


def test_nothing_is_absent_where_the_platform_is_installed():
    assert absent("platform") == []
    assert installed_version("no-such-distribution") is None
    assert installed_version("msgpack") == version("msgpack")


def test_the_base_and_the_engine_cap_nothing():
    capped = {name for name, text in requirements("agent", "router", "gateway", "engine").items() if "<" in text}
    assert capped == set()


def test_evidently_still_imports_what_pandas_3_1_removed():
    """When this fails, see whether `pandas<3.1` of the extra `platform` can go."""
    module = distribution("evidently").locate_file("evidently/legacy/tests/data_integrity_tests.py")
    assert "from pandas.core.dtypes.common import infer_dtype_from_object" in Path(str(module)).read_text("utf-8")


def test_prefect_says_itself_which_fastapi_it_needs():
    """The floor that our own cap on FastAPI was given up for: releases before 3.9.1 fail and do not say so."""
    [fastapi] = [each for each in map(Requirement, requires("prefect") or []) if each.name == "fastapi"]
    assert not fastapi.specifier.contains("0.165.0")
    assert not Requirement(requirements("platform")["prefect"]).specifier.contains("3.9.0")


def test_the_core_imports_no_room():
    import grimp

    graph = grimp.build_graph("fingerpost", exclude_type_checking_imports=True)
    core = {name for name in graph.modules if name.count(".") and name.split(".")[1] not in ROOMS | {"__main__"}}
    rooms = {f"fingerpost.{room}" for room in ROOMS}
    upwards = {
        (module, imported)
        for module in core
        for imported in graph.find_modules_directly_imported_by(module)
        if ".".join(imported.split(".")[:2]) in rooms
    }
    assert upwards == set()
    assert len(core) > 20


def test_modules_are_loaded_once_under_one_name():
    assert not ROOMS & set(sys.modules)
