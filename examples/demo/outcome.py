"""Prints the demo's outcome: as JSON, and as a table of hosts and categories."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from examples.demo.stages import Told
from fingerpost.category import category_attributes
from fingerpost.shown import rich_text


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run.

    Args:
        load: what the clients saw.
        pipeline: results of ingest, features and training.
        answer: the engine's answer, with its cells.
        told, report: the story, and the file that shows it; None: the demo ended with the first model.
        milestones: seconds since the start of what a newcomer waits for.
    """

    load: dict[str, Any]
    pipeline: dict[str, Any]
    answer: dict[str, Any]
    urls: dict[str, str]
    seconds: float
    told: Told | None = None
    report: Path | None = None
    milestones: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        cells = self.answer["cells"]
        ingested, trained = self.pipeline["ingest"], self.pipeline["train"]
        return {
            "hosts": len({cell["host"] for cell in cells}),
            "categories": len({cell["category"] for cell in cells}),
            "request_records": ingested["request_records"],
            "host_samples": ingested["host_samples"],
            "refused": {**ingested["refused"], **ingested["refused_files"]},
            "requests_sent": self.load["sent"],
            "model_name": self.answer["model_name"],
            "model_version": self.answer["model_version"],
            "skill": {target: round(skill, 4) for target, skill in trained["skill"].items()},
            "as_of": self.answer["as_of"],
            "seconds": round(self.seconds, 1),
            "milestones": self.milestones,
            "urls": self.urls,
            **({"story": self.told.found, "stages": self._stages(), "report": str(self.report)} if self.told else {}),
            "table": cells,
        }

    def _stages(self) -> list[dict[str, Any]]:
        """Each stage with how long it took, seconds."""
        chapters = self.told.chapters if self.told else []
        return [{"title": plan.title, "seconds": round(ended - begun, 1)} for plan, begun, ended in chapters]


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Prints the table: a column a host, a row a category, the best host of each marked."""
    cells = outcome.answer["cells"]
    hosts = sorted({cell["host"] for cell in cells})
    by_category: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        by_category.setdefault(cell["category"], {})[cell["host"]] = cell
    table = Table(
        title="predicted throughput and median latency; ★ marks the best host for a category",
        row_styles=["", "dim"],
    )
    table.add_column("category")
    for host in hosts:
        table.add_column(host, justify="right")
    for category, row in by_category.items():
        table.add_row(rich_text(_short(category)), *(_cell(row[host]) for host in hosts))
    console.print(table)
    skills = ", ".join(f"{target} {skill:+.1%}" for target, skill in outcome.pipeline["train"]["skill"].items())
    console.print(
        f"{outcome.answer['model_name']} version {outcome.answer['model_version']}, from "
        f"{outcome.pipeline['ingest']['request_records']} request records; better than the best naive forecast by: "
        f"{skills}"
    )


def _cell(cell: dict[str, Any]) -> str:
    if cell["throughput_rps"] is None:
        return "-"
    latency = f"{cell['latency_p50_s'] * 1000:.1f} ms"
    rate = f"{cell['throughput_rps']:.0f}/s"
    return f"[bold green]★ {rate}\n{latency}[/]" if cell["best"] else f"{rate}\n{latency}"


def _short(category: str) -> str:
    parts = [part for part in category_attributes(category).values() if part]
    return " ".join(parts).replace("POST /work/", "") or category
