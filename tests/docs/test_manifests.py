"""What is in deploy/ for containers and clusters: commands, options and settings that there are, closed as can be."""

import filecmp
import re
import runpy
from pathlib import Path

import pytest
import typer.main
import yaml

from fingerpost.cli import app
from fingerpost.cli.stack.parts import mlflow_command, prefect_command
from fingerpost.settings import Settings
from tests.support.manifests import (
    BASE,
    COMPOSE,
    DEPLOY,
    EXAMPLES,
    STAGES,
    composed,
    composed_containers,
    kubernetes_containers,
    kubernetes_objects,
    objects,
    pods,
)

ROOT = DEPLOY.parent
COMMANDS = typer.main.get_command(app).commands
SETTINGS = {f"FINGERPOST_{name.upper()}" for name in Settings.model_fields}
CONTAINERS = [*kubernetes_containers(), *composed_containers()]
OURS = [each for each in CONTAINERS if each.own]
OBJECTS = kubernetes_objects()
# Of the Prometheus operator, whose definitions the schemas do not hold.
MONITORING = "monitoring.coreos.com/v1"
KEDA = "keda.sh/v1alpha1"


def command_of(words):
    """The command that words after `fingerpost` name, and the words after it."""
    command, *rest = words
    found = COMMANDS[command]
    while hasattr(found, "commands"):
        command, *rest = rest
        found = found.commands[command]
    return found, rest


@pytest.mark.parametrize("container", OURS, ids=lambda each: each.where)
def test_a_container_starts_what_there_is(container):
    assert container.own in STAGES
    unknown = {name for name in container.names if name.startswith("FINGERPOST_")} - SETTINGS
    assert not unknown
    if container.words[0] != "fingerpost":
        return
    command, options = command_of(container.words[1:])
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0] for word in options if word.startswith("-")}
    assert given <= known
    if container.words[1] in ("agent", "engine", "router", "endpoint-picker"):
        assert container.own == container.words[1]


@pytest.mark.parametrize("server", ["mlflow", "prefect"])
def test_servers_of_others_are_started_with_options_that_they_have(server):
    """Those that `fingerpost up` gives them, which its tests run."""
    [kubernetes, compose] = [each.words for each in OURS if server in each.words[:4]]
    assert [word.partition("=")[0] for word in kubernetes] == [word.partition("=")[0] for word in compose]
    there = {"mlflow": mlflow_command, "prefect": prefect_command}[server](Settings())
    assert {word.partition("=")[0] for word in compose if word.startswith("--")} <= set(there)
    assert {*compose[:4]} & {"mlflow", "prefect"} <= set(there)


def test_names_of_settings_with_a_slip_are_noticed():
    """The check above is one: what looks like a setting and is none does not pass."""
    assert "FINGERPOST_ENGINE_TOKENS" not in SETTINGS
    assert len([each for each in OURS if any(name.startswith("FINGERPOST_") for name in each.names)]) >= 10


def test_the_base_is_what_the_chart_makes(tmp_path):
    pytest.importorskip("helm_python", reason="Helm is not installed")
    render = runpy.run_path(str(DEPLOY / "kubernetes" / "render.py"))
    render["main"](tmp_path)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(path.name for path in BASE.iterdir())
    assert filecmp.cmpfiles(tmp_path, BASE, made, shallow=False) == (made, [], [])
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml", "service-monitor.yaml"]) == made


@pytest.mark.parametrize(
    "values",
    [
        {name: {"enabled": False} for name in ("platform", "agent", "endpointPicker", "networkPolicy")},
        {
            "lake": {"claim": "shared"},
            "engine": {"autoscaling": {"enabled": False}, "env": {"FINGERPOST_MAX_HOSTS": 9}},
        },
        {"lake": {"url": "s3://bucket/fleet", "secret": "aws"}},
        {"tokens": "by-role"},
        {"endpointPicker": {"namespace": "shop-team"}, "serviceMonitor": {"enabled": True, "labels": {"release": "p"}}},
    ],
    ids=["little", "lake", "objects", "tokens", "elsewhere"],
)
def test_the_chart_makes_objects_whatever_is_chosen(values):
    helm = pytest.importorskip("helm_python", reason="Helm is not installed")
    with helm.Chart.load(str(DEPLOY / "helm" / "fingerpost")) as chart:
        found = chart.render(values, name="f", namespace="n")
    made = [each for text in found.values() for each in yaml.safe_load_all(text) if each]
    assert "Deployment" in {each["kind"] for each in made}
    check_schemas(made)


def test_with_tokens_by_role_each_part_has_its_own_and_no_other():
    helm = pytest.importorskip("helm_python", reason="Helm is not installed")
    with helm.Chart.load(str(DEPLOY / "helm" / "fingerpost")) as chart:
        found = chart.render({"tokens": "by-role"}, name="f", namespace="n")
    given = {}
    for name, spec in pods([each for text in found.values() for each in yaml.safe_load_all(text) if each]):
        [volume] = [each["secret"] for each in spec["volumes"] if each["name"] == "tokens"]
        [item] = volume["items"]
        for each in spec["containers"]:
            files = {one["name"]: one["value"] for one in each.get("env", ()) if one["name"].endswith("_FILE")}
            assert "FINGERPOST_ENGINE_TOKEN" not in {one["name"] for one in each.get("env", ())}
            mounted = any(one["name"] == "tokens" for one in each["volumeMounts"])
            assert bool(files) == mounted
            if files:
                [[setting, path]] = files.items()
                assert path == f"/etc/fingerpost/tokens/{item['path']}"
                assert setting in SETTINGS
                given[name] = (setting, item["key"], volume["secretName"])
    assert sorted(given.values()) == [
        ("FINGERPOST_ENGINE_ROLES_FILE", "roles", "by-role"),
        *(("FINGERPOST_ENGINE_TOKEN_FILE", role, "by-role") for role in ("agent", "person", "proxy")),
    ]


def check_schemas(found):
    validate = pytest.importorskip("kubernetes_validate", reason="the schemas of Kubernetes are not installed")
    for each in found:
        if each["apiVersion"] not in (MONITORING, KEDA):
            validate.validate(each, "1.36", strict=True)


def test_objects_fit_the_schemas_of_kubernetes():
    check_schemas(OBJECTS)
    assert len(OBJECTS) >= 30


@pytest.mark.parametrize(("pod", "spec"), [*pods(objects([*BASE.glob("*.yaml"), *EXAMPLES.glob("[es]*.yaml")]))])
def test_a_pod_may_do_nothing_that_it_does_not_need(pod, spec):
    del pod
    context = spec["securityContext"]
    assert (context["runAsNonRoot"], context["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    for each in (*spec.get("initContainers", ()), *spec["containers"]):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "value" not in str([one for one in each.get("env", ()) if "TOKEN" in one["name"]]).replace(
            "valueFrom", ""
        )
    if not spec.get("serviceAccountName"):
        assert spec.get("automountServiceAccountToken", False) is False


def test_services_and_monitors_find_pods_and_ports():
    everything = [
        (each["metadata"], each["spec"]["template"]) for each in OBJECTS if "template" in each.get("spec", {})
    ]

    def named_ports(labels):
        return {
            port["name"]
            for _, template in everything
            if labels.items() <= template["metadata"]["labels"].items()
            for each in (*template["spec"].get("initContainers", ()), *template["spec"]["containers"])
            for port in each.get("ports", ())
        }

    for each in OBJECTS:
        spec = each.get("spec", {})
        if each["kind"] == "Service":
            assert {port["targetPort"] for port in spec["ports"]} <= named_ports(spec["selector"])
        elif each["kind"] == "NetworkPolicy":
            wanted = {port["port"] for rule in spec["ingress"] for port in rule["ports"]}
            assert wanted <= named_ports(spec["podSelector"]["matchLabels"])
        elif each["kind"] == "PodMonitor":
            wanted = {one["port"] for one in spec["podMetricsEndpoints"]}
            assert wanted <= named_ports(spec["selector"]["matchLabels"])
        elif each["kind"] == "PodDisruptionBudget":
            assert named_ports(spec["selector"]["matchLabels"])


def test_the_compose_file_is_whole():
    services, told = composed(), yaml.safe_load(COMPOSE.read_text())
    for name, each in services.items():
        assert set(each.get("depends_on", ())) <= set(services), name
        assert set(each.get("networks", ())) <= set(told["networks"]), name
        volumes = {volume.partition(":")[0] for volume in each.get("volumes", ())}
        assert volumes <= set(told["volumes"]), name
        for published in each.get("ports", ()):
            assert published.startswith("127.0.0.1:"), name
    variables = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    offered = {line.partition("=")[0] for line in (COMPOSE.parent / ".env.example").read_text().splitlines()}
    assert variables <= offered


def test_images_hold_every_room_run_as_nobody_and_tell_their_health():
    copied = {text.split()[0] for kind, text in STAGES["build"].steps if kind == "COPY"}
    rooms = {path.name for path in (ROOT / "fingerpost").iterdir() if path.is_symlink()}
    assert {*rooms, "fingerpost"} <= copied
    for name in ("agent", "router", "endpoint-picker", "engine", "platform"):
        stage = STAGES[name]
        assert stage.last("USER") == "1034:1034"
        assert stage.healthcheck() == ["python", "/opt/healthy.py"]
        assert stage.command("ENTRYPOINT")[0] == "fingerpost"
    paths = [text.split()[0] for stage in STAGES.values() for kind, text in stage.steps if kind == "COPY"]
    assert all((ROOT / path).exists() for path in paths if not path.startswith("--from"))


def test_the_chart_installs_the_program_of_this_version():
    from fingerpost import __version__

    chart = yaml.safe_load((Path(DEPLOY) / "helm/fingerpost/Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    tags = {each.image.partition(":")[2] for each in kubernetes_containers() if each.own}
    assert tags == {__version__}
