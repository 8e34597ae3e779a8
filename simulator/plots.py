"""Pictures of a sweep."""

from pathlib import Path

from fingerpost.simulator.sweep import Sweep


def write_plots(sweep: Sweep, folder: Path) -> list[Path]:
    """Draws, for each number of pickers, p99 against load by policy, and the highest loads; returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    counts = list(dict.fromkeys(pickers for _, pickers in sweep.highest))
    return [path for count in counts for path in (_latencies(sweep, count, folder), _highest(sweep, count, folder))]


def _latencies(sweep: Sweep, pickers: int, folder: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for policy, count in sweep.highest:
        points = [each for each in sweep.points if each.policy == policy and each.pickers == pickers]
        if count == pickers and points:
            ours = policy.startswith("fingerpost")
            axes.plot(
                [each.load for each in points],
                [each.mean("p99_s") * 1000 for each in points],
                marker="o",
                linewidth=3 if ours else 1.3,
                zorder=3 if ours else 2,
                label=policy,
            )
    axes.axhline(sweep.scenario.slo_s * 1000, color="gray", linestyle="--", linewidth=1, label="SLO")
    axes.set_yscale("log")
    axes.set_xlabel("load, share of the bound")
    axes.set_ylabel("p99, ms")
    axes.set_title(f"{sweep.scenario.name}: {pickers} picker{'s' if pickers > 1 else ''}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return _saved(figure, folder / f"p99-{pickers}-pickers.png")


def _highest(sweep: Sweep, pickers: int, folder: Path) -> Path:
    from matplotlib.figure import Figure

    loads = {policy: load for (policy, count), load in sweep.highest.items() if count == pickers}
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(loads), list(loads.values()))
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel(f"highest load with p99 within {sweep.scenario.slo_s * 1000:g} ms, share of the bound")
    axes.set_title(f"{sweep.scenario.name}: {pickers} picker{'s' if pickers > 1 else ''}")
    return _saved(figure, folder / f"highest-{pickers}-pickers.png")


def _saved(figure: "matplotlib.figure.Figure", path: Path) -> Path:  # type: ignore[name-defined]  # noqa: F821
    figure.savefig(path, dpi=120)
    return path
