"""Request records of made experiments: slots that drift, latencies with heavy tails, and an effect that is known."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fingerpost.clock import US
from fingerpost.closed_arms import HELD_S, closing
from fingerpost.experiment import TREATMENT, Experiment
from fingerpost.lake import date_of, partition
from fingerpost.serving.outside import event_file
from fingerpost.settings import Settings

BEGIN = 1_790_000_000_000_000


def made_experiment(pairs: int = 40, slot_s: float = 20.0, washout_s: float = 4.0, name: str = "x1") -> Experiment:
    return Experiment(name, "shop", "1", "2", BEGIN, slot_s, washout_s, pairs)


def made_records(
    experiment: Experiment,
    effect: float | dict[str, float] = 0.0,
    error_rates: tuple[float, float] = (0.0, 0.0),
    rate_rps: float = 10.0,
    seed: int = 0,
    tail: float = 1.0,
    categories: dict[str, tuple[float, float]] | None = None,
) -> pd.DataFrame:
    """A record a request, also before and after the experiment.

    Args:
        effect: relative change of the challenger's latency; of several, by arm.
        error_rates: of champion and challenger.
        tail: sigma of the log-normal latencies.
        categories: by name the share of the requests, and how many times as long they take; None: all are alike.
    """
    rng = np.random.default_rng(seed)
    span = experiment.end_us - experiment.begin_us
    count = round(span / US * rate_rps * 1.1)
    begun = np.sort(experiment.begin_us - span // 20 + rng.integers(0, round(span * 1.1), count))
    arm = np.array([experiment.arm_at(int(each)) for each in begun], dtype=object)
    challenger = arm == TREATMENT
    by_arm = effect if isinstance(effect, dict) else {TREATMENT: effect}
    changes = np.array([by_arm.get(each, 0.0) for each in arm])
    # Load comes and goes over many slots.
    slots = ((begun - begun[0]) // round(experiment.slot_s * US)).astype(int)
    drift = np.zeros(slots.max() + 1)
    for place in range(1, len(drift)):
        drift[place] = 0.9 * drift[place - 1] + rng.normal(0, 0.1)
    duration = 0.02 * np.exp(drift[slots] + rng.normal(0, tail, count)) * (1 + changes)
    named = categories or {"GET /": (1.0, 1.0)}
    kind = rng.choice(len(named), count, p=[share for share, _ in named.values()])
    duration = duration * np.array([times for _, times in named.values()])[kind]
    failed = rng.random(count) < np.where(challenger, error_rates[1], error_rates[0])
    return pd.DataFrame(
        {
            "time_us": begun + np.round(duration * US).astype(np.int64),
            "duration_s": duration,
            "status": np.where(failed, 503, 200),
            "arm": arm,
            "method": "GET",
            "route": np.array([f"/{name}" for name in named], dtype=object)[kind],
            "category": np.array(list(named), dtype=object)[kind],
            "bytes_in": 0,
            "auth": "none",
            "user_agent_class": "other",
            "region": "none",
            "predicted_cost": np.full(count, 0.02),
        }
    )


def keep_records(settings: Settings, records: pd.DataFrame) -> None:
    """Writes made records into the lake of the settings, a file a date."""
    table = pa.Table.from_pandas(records.drop(columns=["time_us", "category"]), preserve_index=False)
    times = pa.array(records["time_us"].to_numpy(), pa.timestamp("us", tz="UTC"))
    days = records["time_us"].map(date_of)
    for day in days.unique():
        folder = settings.lake / "requests" / f"service={settings.service}" / f"date={day}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.append_column("time", times).filter(pa.array(days == day)), folder / "h1.parquet")


def keep_closing(settings: Settings, experiment: Experiment, why: str, now_us: int) -> None:
    """Writes into the lake that the engine closed the new version's arm, and again when it was opened."""
    for told_us in (now_us, now_us + round(HELD_S * US) + 3 * US):
        event = closing(experiment, why, told_us)
        folder = partition(settings.lake, "events", settings.service, date_of(told_us))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"event-{event.id}.parquet").write_bytes(event_file(event))
