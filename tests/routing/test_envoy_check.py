"""What is missing in an Envoy configuration of another hand, and that the pieces we print make it whole."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fingerpost.cli import app
from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.check import check_config
from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.document import read_config
from fingerpost.routing.envoy.module import build_module
from fingerpost.routing.envoy.upstream import Upstream
from tests.support.foreign_envoy import FOREIGN, completed, manager

HOSTS = [Upstream("a", "127.0.0.1", 9001), Upstream("b", "127.0.0.1", 9002)]
TABLE, LOG = Path("/var/lib/fingerpost/shop.table"), Path("/var/log/envoy/access.log")
EXAMPLE = Path(__file__).parents[2] / "examples" / "own_envoy" / "envoy.yaml"


def levels(found):
    return [each.level for each in found]


def whole():
    return envoy_config(HOSTS, LOG, "127.0.0.1", 8080, 9901, "fingerpost", table=TABLE, health_path="/healthz")


def test_nothing_is_found_in_what_we_write_ourselves():
    assert check_config(whole()) == []


def test_the_example_lacks_only_what_is_optional():
    assert set(levels(check_config(read_config(EXAMPLE)))) == {"warning"}


def test_the_pieces_complete_a_configuration_of_another_hand():
    config = read_config(FOREIGN)
    assert "no cluster chooses" in check_config(config)[0].problem
    places = [each.where for each in check_config(config, "shop") if each.level == "error"]
    assert [place.rpartition(".")[2] for place in places] == [
        *("load_balancing_policy", "lb_endpoints[0]", "lb_endpoints[1]", "http_filters", "access_log")
    ]
    assert check_config(completed(config, "shop", TABLE, LOG, HOSTS), "shop") == []


@pytest.mark.process
def test_envoy_takes_the_completed_configuration(tmp_path):
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=shop", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    text = json.dumps(completed(read_config(FOREIGN), "shop", TABLE, LOG, HOSTS))
    path = tmp_path / "envoy.json"
    path.write_text(text.replace("/etc/envoy", str(tmp_path)).replace(str(LOG), str(tmp_path / "access.log")))
    env = {**os.environ, "ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(build_module().parent)}
    command = [Path(sys.executable).with_name("envoy"), "--mode", "validate", "-c", path, "--base-id", str(os.getpid())]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("spoil", "level", "told"),
    [
        (lambda c: manager(c)["http_filters"].pop(0), "error", "picker's filter is missing"),
        (lambda c: manager(c)["http_filters"].insert(0, manager(c)["http_filters"][0]), "error", "there twice"),
        (lambda c: settings_of(c, "service=shop\n"), "error", "no absolute path"),
        (lambda c: settings_of(c, "table=shop.table\n"), "error", "'shop.table' is no absolute path"),
        (lambda c: settings_of(c, "tabel=/shop.table\n"), "error", "'tabel' is no setting"),
        (lambda c: settings_of(c, "table=/t\nzone_factor=0\n"), "error", "zone_factor=0 is no number"),
        (lambda c: settings_of(c, "table=/t\nservice=shop\n"), "error", "decision"),
        (lambda c: manager(c)["http_filters"].pop(1), "warning", "goes to clients"),
        (lambda c: manager(c).pop("access_log"), "error", "start, host"),
        (lambda c: log_of(c).pop("inflight"), "warning", "inflight"),
        (lambda c: log_of(c).update(duration_us="%DURATION%"), "error", "duration_us"),
        (lambda c: endpoint(c).pop("metadata"), "error", "has no name"),
        (lambda c: endpoint(c)["endpoint"].update(hostname="web"), "error", "calls the host 'web'"),
        (lambda c: name_all(c, "a"), "error", "name of another endpoint"),
        (lambda c: name_all(c, "a/../b"), "error", "cannot be a host's name"),
        (lambda c: cluster_of(c).pop("circuit_breakers"), "warning", "503"),
        (lambda c: breakers(c).pop("max_retries"), "warning", "3 retries"),
        (lambda c: cluster_of(c).pop("outlier_detection"), "warning", "left out by nobody"),
        (lambda c: cluster_of(c).pop("health_checks"), "warning", "active health checks"),
        (lambda c: cluster_of(c).update(name="others"), "error", "no route leads"),
        (lambda c: route(c)["retry_policy"].pop("retry_host_predicate"), "warning", "just failed"),
        (lambda c: route(c).update(request_mirror_policies=[{"cluster": "hosts"}]), "warning", "copies"),
        (lambda c: route(c).update(hedge_policy={"hedge_on_per_try_timeout": True}), "warning", "hedged"),
        (lambda c: policy_of(c)["dynamic_module_config"].update(name="other"), "error", "module 'other'"),
        (lambda c: virtual_host(c).update(response_headers_to_remove=["Endpoint-Load-Metrics"]), "warning", "before"),
        (
            lambda c: routed(c).update(response_headers_to_remove=["x-fingerpost-cpu-s"]),
            "warning",
            "x-fingerpost-cpu-s",
        ),
        (
            lambda c: manager(c)["route_config"].update(response_headers_to_remove=["endpoint-load-metrics"]),
            "warning",
            "removed before the picker",
        ),
        (lambda c: manager(c)["http_filters"].insert(1, MUTATION), "warning", "removed before the picker"),
        (
            lambda c: route(c).update(
                weighted_clusters={
                    "clusters": [{"name": "hosts", "response_headers_to_remove": ["endpoint-load-metrics"]}]
                }
            ),
            "warning",
            "removed before the picker",
        ),
        (lambda c: route(c)["retry_policy"].update(retry_on="5xx,connect-failure"), "warning", "5xx: requests that"),
        (lambda c: route(c).update(timeout="0s"), "warning", "never end"),
        (lambda c: routed(c)["match"].update(grpc={}), "error", "route is for gRPC"),
        (lambda c: cluster_of(c)["outlier_detection"].pop("enforcing_success_rate"), "warning", "success rate"),
        (
            lambda c: cluster_of(c)["common_lb_config"].update(locality_weighted_lb_config={}),
            "warning",
            "whatever their locality",
        ),
        (
            lambda c: cluster_of(c)["load_assignment"].update(policy={"overprovisioning_factor": 200}),
            "warning",
            "counts with 140",
        ),
    ],
)
def test_each_thing_that_is_wrong_is_found(spoil, level, told):
    config = copy.deepcopy(whole())
    spoil(config)
    found = [each for each in check_config(config) if told in each.problem]
    assert levels(found)[:1] == [level]


def test_answers_may_be_changed_in_front_of_the_picker():
    """Filters see answers in the reverse order: what the first one removes was read by the others."""
    config = whole()
    manager(config)["http_filters"].insert(0, MUTATION)
    assert check_config(config) == []


def test_retries_with_a_budget_are_nothing_to_warn_of():
    config = whole()
    route(config)["retry_policy"]["retry_on"] = "5xx"
    breakers(config)["retry_budget"] = {"budget_percent": {"value": 20}}
    assert check_config(config) == []


def test_the_policy_below_one_of_envoys_own_is_found():
    config = whole()
    below = cluster_of(config)["load_balancing_policy"]
    above = {"@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.subset.v3.Subset"}
    chosen = {"typed_extension_config": {"name": "subset", "typed_config": {**above, "subset_lb_policy": below}}}
    cluster_of(config)["load_balancing_policy"] = {"policies": [chosen]}
    assert check_config(config) == []


MUTATION = {
    "name": "envoy.filters.http.header_mutation",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": {"response_mutations": [{"remove": "endpoint-load-metrics"}]},
    },
}


def virtual_host(config):
    return manager(config)["route_config"]["virtual_hosts"][0]


def routed(config):
    return virtual_host(config)["routes"][0]


def settings_of(config, text):
    policy_of(config)["lb_policy_config"]["value"] = text


def cluster_of(config):
    return config["static_resources"]["clusters"][0]


def endpoint(config, place=0):
    return cluster_of(config)["load_assignment"]["endpoints"][0]["lb_endpoints"][place]


def name_all(config, name):
    for place in range(2):
        endpoint(config, place)["endpoint"]["hostname"] = name
        endpoint(config, place)["metadata"]["filter_metadata"]["fingerpost"]["host"] = name


def breakers(config):
    return cluster_of(config)["circuit_breakers"]["thresholds"][0]


def policy_of(config):
    return cluster_of(config)["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"]


def log_of(config):
    return manager(config)["access_log"][0]["typed_config"]["log_format"]["json_format"]


def route(config):
    return manager(config)["route_config"]["virtual_hosts"][0]["routes"][0]["route"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_whatever_stands_in_a_configuration_is_answered_with_findings(data):
    config = copy.deepcopy(whole())
    at = config["static_resources"]
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        below = at[key]
        if not isinstance(below, dict | list) or not below or data.draw(st.integers(0, 9)) == 0:
            break
        at = below
    at[key] = data.draw(JSON)
    for each in check_config(config):
        assert each.level in ("error", "warning")


@pytest.mark.process
def test_the_command_ends_with_1_where_something_is_wrong(tmp_path):
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(whole()))
    runner = CliRunner()
    assert runner.invoke(app, ["envoy", "check", str(path)]).exit_code == 0
    config = whole()
    manager(config)["http_filters"].pop(0)
    path.write_text(json.dumps(config))
    done = runner.invoke(app, ["envoy", "check", "--json", str(path)])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["errors"] == 1


@pytest.mark.parametrize("text", ["", "a: [", "[]", "static_resources: 1", "&a [*a, *a]"])
def test_what_is_no_configuration_is_refused_in_a_sentence(tmp_path, text):
    path = tmp_path / "envoy.yaml"
    path.write_text(text)
    with pytest.raises(FingerpostError, match=r"envoy\.yaml"):
        read_config(path)


def test_a_cluster_that_is_not_there_is_named():
    with pytest.raises(FingerpostError, match="no cluster 'shop' among hosts"):
        check_config(whole(), "shop")
