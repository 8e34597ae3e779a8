"""Writes base/ from the Helm chart with its default values: one source for those who use Helm and those who do not.

python deploy/kubernetes/render.py [FOLDER]
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
CHART = HERE.parent / "helm" / "fingerpost"
NAME = "fingerpost"
_HEAD = "# Made from deploy/helm/fingerpost by `make manifests`: change it there.\n"
# What a cluster may lack the definitions of is a component of its own.
_COMPONENTS = ("service-monitor",)


def rendered() -> dict[str, str]:
    """The files of the base by their paths in it."""
    import helm_python

    with helm_python.Chart.load(str(CHART)) as chart:
        found = chart.render({"serviceMonitor": {"enabled": True}}, name=NAME, namespace=NAME)
    templates = {Path(path).stem: text.strip() for path, text in sorted(found.items()) if text.strip()}
    files = {f"{name}.yaml": f"{_HEAD}{_tidy(text)}\n" for name, text in templates.items()}
    resources = "".join(f"  - {name}.yaml\n" for name in templates if name not in _COMPONENTS)
    files["kustomization.yaml"] = (
        f"{_HEAD}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: {NAME}\n"
        f"resources:\n{resources}"
    )
    return files


def _tidy(text: str) -> str:
    """Without the empty lines that templates leave."""
    return "\n".join(line for line in text.splitlines() if line.strip())


def main(folder: Path) -> None:
    """Writes the files, and removes what the chart has no more."""
    folder.mkdir(parents=True, exist_ok=True)
    files = rendered()
    for path in folder.glob("*.yaml"):
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "base")
