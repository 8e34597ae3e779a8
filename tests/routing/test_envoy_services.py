"""Several services behind one Envoy: each has its own cluster, table, log and counters, behind one filter."""

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from fingerpost.accesslog.envoy import decision_parts
from fingerpost.cli import app
from fingerpost.errors import FingerpostError
from fingerpost.lake import write_text_atomically
from fingerpost.routing.envoy.check import check_config
from fingerpost.routing.envoy.clusters import Picker
from fingerpost.routing.envoy.config import services_config
from fingerpost.routing.envoy.module import compiler
from fingerpost.routing.envoy.services import Routed, read_services
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.router import write_table
from fingerpost.routing.table_file import PickerSettings
from tests.support.picker_harness import made_table
from tests.support.running import running_envoy, running_fleet
from tests.support.sleeping_scenario import Scenario
from tests.support.waiting import wait_for

HOSTS = [Upstream("a", "127.0.0.1", 9001), Upstream("b", "127.0.0.1", 9002)]


def services(folder, **changes):
    return [
        Routed("shop", folder / "shop.log", HOSTS, table=folder / "shop.table", prefix="/c0", **changes),
        Routed("pages", folder / "pages.log", HOSTS, table=folder / "pages.table", health_path="/healthz"),
    ]


def table_for(best, category, version, more=0):
    """A table of two hosts, of which the one at the place `best` is by far the cheapest; with `more` categories."""
    categories = [category, *(f"GET /more/{number}" for number in range(more)), "other"]
    slope = np.full((1, len(categories), 3), 1.0, dtype=np.float32)
    slope[..., best] = 1e-4
    return made_table(
        ["h00", "h01"], categories, slope=slope, version=version, settings=PickerSettings(exploration=0.0)
    )


def rows_of(path, least):
    def read():
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines] if len(lines) >= least else []

    return [{**row, **decision_parts(row["decision"])} for row in wait_for(read)]


@pytest.mark.process
@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_each_service_is_routed_and_logged_by_its_own_table(tmp_path, free_ports):
    port, admin = free_ports(2)
    with running_fleet(Scenario(np.full((2, 2), 0.001), np.array([0.5, 0.5]), 2, 1.0)) as upstreams:
        several = [
            Routed("shop", tmp_path / "shop.log", upstreams, table=tmp_path / "shop.table", prefix="/c0"),
            Routed("pages", tmp_path / "pages.log", upstreams, table=tmp_path / "pages.table"),
        ]
        write_table(several[0].table, table_for(0, "GET /c0", "s1"))
        write_table(several[1].table, table_for(1, "GET /c1", "p1"))
        config = services_config(several, "127.0.0.1", port, admin)
        with running_envoy(config, tmp_path, admin, 2):
            forged = {"x-fingerpost-decision-shop": "fingerpost;;;main;;;1;1;x"}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                for _ in range(10):
                    assert client.get("/c0").status_code == client.get("/c1", headers=forged).status_code == 200
                # One service's table is broken: the other's goes on, and is replaced.
                several[0].table.write_bytes(b"broken")
                write_table(several[1].table, table_for(0, "GET /c1", "p2"))

                def replaced():
                    assert client.get("/c0").status_code == client.get("/c1").status_code == 200
                    counted = httpx.get(f"http://127.0.0.1:{admin}/stats/prometheus", trust_env=False).text
                    return all(
                        f'envoy_fingerpost_{name}{{fingerpost_service="{service}"}} {count}' in counted
                        for service, name, count in (
                            *(("shop", "tables_loaded", 1), ("shop", "tables_refused", 1), ("shop", "fallback", 0)),
                            *(("pages", "tables_loaded", 2), ("pages", "tables_refused", 0)),
                        )
                    )

                wait_for(replaced)
        shop, pages = rows_of(several[0].access_log, 11), rows_of(several[1].access_log, 11)
    assert Counter((row["host"], row["table_version"], row["category"]) for row in shop[:10]) == {
        ("h00", "s1", "GET /c0"): 10
    }
    assert Counter((row["host"], row["table_version"]) for row in pages[:10]) == {("h01", "p1"): 10}
    assert {row["path"] for row in shop} == {"/c0"}
    assert {row["path"] for row in pages} == {"/c1"}
    assert (shop[-1]["table_version"], pages[-1]["host"], pages[-1]["table_version"]) == ("s1", "h00", "p2")
    assert {row["policy"] for row in shop + pages} == {"fingerpost"}


@pytest.mark.process
@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_clusters_that_are_configured_anew_lose_no_request_and_no_memory(tmp_path, free_ports):
    """Clusters come by CDS, each time with another timeout: Envoy makes their policies anew on all its threads."""
    port, admin = free_ports(2)
    kind = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    with running_fleet(Scenario(np.full((2, 2), 0.001), np.array([0.5, 0.5]), 2, 1.0)) as upstreams:
        several = [
            Routed("shop", tmp_path / "shop.log", upstreams, table=tmp_path / "shop.table", prefix="/c0"),
            Routed("pages", tmp_path / "pages.log", upstreams, table=tmp_path / "pages.table"),
        ]
        write_table(several[0].table, table_for(0, "GET /c0", "s1", 4000))
        write_table(several[1].table, table_for(1, "GET /c1", "p1", 4000))
        config = services_config(several, "127.0.0.1", port, admin)
        resources = config["static_resources"]
        made, resources["clusters"] = resources["clusters"][:2], resources["clusters"][2:]
        manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["route_config"]["validate_clusters"] = False
        file = tmp_path / "clusters.json"
        source = {"path": str(file), "watched_directory": {"path": str(tmp_path)}}
        config["node"] = {"id": "test", "cluster": "test"}
        config["dynamic_resources"] = {"cds_config": {"path_config_source": source, "resource_api_version": "V3"}}

        def list_clusters(version):
            clusters = [{"@type": kind, **each, "connect_timeout": f"{1 + version / 1000}s"} for each in made]
            write_text_atomically(file, json.dumps({"version_info": str(version), "resources": clusters}))

        list_clusters(0)
        answers = Counter()
        with running_envoy(config, tmp_path, admin, 2) as process, ThreadPoolExecutor(2) as pool:
            stop = threading.Event()

            def ask(path):
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                    while not stop.is_set():
                        answers[path, client.get(path).status_code] += 1

            def stat(name):
                text = httpx.get(f"http://127.0.0.1:{admin}/stats?filter=^{name}$", trust_env=False).text
                return int(text.rpartition(": ")[2])

            asking = [pool.submit(ask, path) for path in ("/c0", "/c1")]
            memory = []
            try:
                for version in range(1, 31):
                    list_clusters(version)
                    wait_for(lambda version=version: stat("cluster_manager.cds.update_success") > version)
                    if version in (10, 30):
                        memory.append(psutil.Process(process).memory_info().rss)
            finally:
                stop.set()
            for each in asking:
                each.result()
            assert stat("cluster_manager.cluster_modified") >= 30
        rows = rows_of(several[0].access_log, 1) + rows_of(several[1].access_log, 1)
    assert set(answers) == {("/c0", 200), ("/c1", 200)}
    assert {(row["path"], row["host"], row["policy"]) for row in rows} == {
        ("/c0", "h00", "fingerpost"),
        ("/c1", "h01", "fingerpost"),
    }
    # Forty configurations, each with a table of a third of a megabyte in memory.
    assert memory[1] - memory[0] < 8 * 2**20


def test_nothing_is_found_in_the_configuration_of_several_services(tmp_path):
    several = services(tmp_path, health_path="/healthz")
    assert check_config(services_config(several, "127.0.0.1", 8080, 9901)) == []


def test_clusters_that_share_a_log_are_found(tmp_path):
    config = services_config(services(tmp_path, health_path="/healthz"), "127.0.0.1", 8080, 9901)
    shop, pages = config["static_resources"]["clusters"][:2]
    pages["load_balancing_policy"] = shop["load_balancing_policy"]
    found = [each for each in check_config(config) if each.level == "error"]
    assert [each.problem for each in found] == [
        "the requests of the clusters pages, shop cannot be told apart in the log"
    ]


def test_the_longest_prefix_of_a_domain_goes_first(tmp_path):
    several = [
        Routed("all", tmp_path / "log", HOSTS, table=tmp_path / "t"),
        Routed("api", tmp_path / "log", HOSTS, table=tmp_path / "t", prefix="/api/", domains=("*", "shop.example")),
    ]
    config = services_config(several, "127.0.0.1", 8080, 9901)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = {
        host["domains"][0]: [(each["match"]["prefix"], each["route"]["cluster"]) for each in host["routes"]]
        for host in manager["route_config"]["virtual_hosts"]
    }
    assert routes == {"*": [("/api/", "api"), ("/", "all")], "shop.example": [("/api/", "api")]}


@pytest.mark.parametrize(
    ("names", "prefixes", "told"),
    [
        ((), (), "no service is named"),
        (("shop", ""), ("/a", "/b"), "needs a name"),
        (("shop", "Shop"), ("/a", "/b"), "two services are called 'shop'"),
        (("a/b", "c"), ("/a", "/b"), "invalid service 'a/b'"),
        (("shop", "pages"), ("/a", "/a"), "both take '[*]' '/a'"),
        (("shop", "pages"), ("/a", "b"), "does not begin with '/'"),
    ],
)
def test_services_that_cannot_be_told_apart_are_refused(tmp_path, names, prefixes, told):
    several = [
        Routed(name, tmp_path / "log", HOSTS, table=tmp_path / "t", prefix=prefix)
        for name, prefix in zip(names, prefixes, strict=True)
    ]
    with pytest.raises(ValueError, match=told):
        services_config(several, "127.0.0.1", 8080, 9901)


def test_a_file_of_services_is_read(tmp_path):
    (tmp_path / "hosts.txt").write_text("a=10.0.0.1:80\n")
    file = tmp_path / "services.toml"
    file.write_text(
        '[shop]\ndomains = ["shop.example"]\nhosts = "hosts.txt"\nhealth_path = "/healthz"\ntimeout_s = 5\n'
        '[calls]\nprefix = "/pkg.Calls/"\nendpoints = "/run/calls.json"\nhosts_http = "http2"\naccess_log = "c.log"\n'
    )
    shop, calls = read_services(file, Path("/home"))
    assert (shop.upstreams, shop.domains, shop.prefix, shop.timeout_s) == (
        *([Upstream("a", "10.0.0.1", 80)], ("shop.example",)),
        *("/", 5.0),
    )
    assert (shop.table, shop.access_log) == (Path("/home/routing/shop.table"), Path("/home/logs/shop.access.log"))
    assert (calls.endpoints, calls.transport.http, calls.access_log) == (
        *(Path("/run/calls.json"), "http2"),
        tmp_path / "c.log",
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no service is named"),
        ("a", "cannot be read"),
        ("shop = 1", "'shop' is no table"),
        ("[shop]\nhost = 'a'", "unknown key 'host'"),
        ("[shop]\nprefix = 1", "prefix = 1 should be a str"),
        ("[shop]\ntimeout_s = 'a'", "should be a float"),
        ("[shop]\ntimeout_s = nan", "should be above 0"),
        ("[shop]\ndomains = [1]", "list of domains"),
        ("[shop]\nhosts = 'absent.txt'", "hosts cannot be read"),
        ("['a b']\nendpoints = 'x'", "invalid service 'a b'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_sentence(tmp_path, text, told):
    file = tmp_path / "services.toml"
    file.write_text(text)
    with pytest.raises(FingerpostError, match=told):
        read_services(file, tmp_path)


@pytest.mark.process
@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_the_command_writes_the_configuration_of_a_file_of_services(tmp_path, monkeypatch):
    monkeypatch.setenv("FINGERPOST_HOME", str(tmp_path / "home"))
    file, output = tmp_path / "services.toml", tmp_path / "envoy.json"
    file.write_text('[shop]\nendpoints = "shop.json"\n[pages]\nprefix = "/pages/"\nendpoints = "pages.json"\n')
    runner = CliRunner()
    done = runner.invoke(app, ["envoy", "config", "--services", str(file), "--zone", "north", "--output", str(output)])
    assert done.exit_code == 0, done.output
    clusters = json.loads(output.read_text())["static_resources"]["clusters"]
    assert [each["name"] for each in clusters][:2] == ["shop", "pages"]
    assert "zone=north" in json.dumps(clusters[0])
    both = runner.invoke(app, ["envoy", "config", "--services", str(file), "--host", "a=10.0.0.1:80"])
    assert isinstance(both.exception, FingerpostError)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"zone_factor": 0.5}, "zone's factor is 0.5"), ({"zone": "a b"}, "zone"), ({"service": "/"}, "service")],
)
def test_what_the_picker_would_refuse_is_refused_before(changes, told):
    with pytest.raises(ValueError, match=told):
        Picker(Path("/t"), **changes)
