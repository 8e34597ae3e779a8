"""What is in deploy/ for containers and clusters, as it would be applied: files as objects, containers one by one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.bare_root import stages_of

DEPLOY = Path(__file__).parents[2] / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
EXAMPLES = DEPLOY / "kubernetes" / "examples"
COMPOSE = DEPLOY / "containers" / "compose.yaml"
STAGES = stages_of(DEPLOY / "containers" / "Containerfile")


@dataclass(frozen=True)
class Started:
    """A container as it would start.

    Args:
        image: as written; `own` says which stage of the Containerfile it is, if any.
        words: the whole command line, an image's entry point included.
        names: of the variables that it gets.
    """

    where: str
    image: str
    words: tuple[str, ...]
    names: frozenset[str]

    @property
    def own(self) -> str:
        return own_stage(self.image)


def own_stage(image: str) -> str:
    """The stage of the Containerfile that an image is made of; empty: it is another's."""
    name = image.partition(":")[0]
    return name.removeprefix("fingerpost-") if name.startswith("fingerpost-") else ""


def objects(paths: list[Path]) -> list[dict[str, Any]]:
    """All documents of some files."""
    return [each for path in paths for each in yaml.safe_load_all(path.read_text()) if each]


def kubernetes_objects() -> list[dict[str, Any]]:
    """Base and examples, without the kustomization."""
    found = objects(sorted([*BASE.glob("*.yaml"), *EXAMPLES.glob("*.yaml")]))
    return [each for each in found if each["kind"] != "Kustomization"]


def pods(found: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pods' specifications, with what they are called in messages."""
    for each in found:
        template = each.get("spec", {}).get("template")
        if template:
            yield f"{each['kind']}/{each['metadata']['name']}", template["spec"]


def kubernetes_containers() -> list[Started]:
    """All containers of base and examples."""
    return [
        Started(
            f"{pod}/{each['name']}", each["image"],
            (*_entry(each["image"], each.get("command")), *each.get("args", ())),
            frozenset(variable["name"] for variable in each.get("env", ())),
        )
        for pod, spec in pods(kubernetes_objects())
        for each in (*spec.get("initContainers", ()), *spec["containers"])
    ]  # fmt: skip


def composed() -> dict[str, dict[str, Any]]:
    """The services of the compose file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def composed_containers() -> list[Started]:
    """All containers of the compose file."""
    return [
        Started(
            f"compose/{name}", each["image"],
            (*_entry(each["image"], each.get("entrypoint")), *each.get("command", ())),
            frozenset(each.get("environment", ())),
        )
        for name, each in composed().items()
    ]  # fmt: skip


def _entry(image: str, given: list[str] | None) -> list[str]:
    own = own_stage(image)
    return given or (STAGES[own].command("ENTRYPOINT") if own else [])
