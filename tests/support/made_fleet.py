"""A made-up fleet whose truth is known, its reports and fingerprints; and models of it, registered like real ones."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.category import ATTRIBUTES, category_attributes
from fingerpost.clock import US, clock_us
from fingerpost.fingerprint import FINGERPRINT_HOST_COLUMNS, Fingerprint
from fingerpost.history_block import HistoryBlock
from fingerpost.packed_message import message
from fingerpost.serving.fleet_state import HostState
from fingerpost.serving.histories import HistoryForm
from fingerpost.telemetry.history import HISTORY_SCHEMA, History
from fingerpost.window_report import LOAD_COLUMNS, SAMPLE_COLUMNS, WINDOW_COLUMNS, WindowReport, pack

NOW = 10**9 * US

_WINDOWS = 4
# Of the default settings.
FORM = HistoryForm(10.0, 60.0)


@dataclass(frozen=True)
class MadeFleet:
    """Hosts of three classes, categories of different cost: the CPU time of a cell is known exactly.

    Args:
        cpu_s: true CPU-seconds a request, shape (hosts, categories).
    """

    service: str
    hosts: tuple[str, ...]
    categories: tuple[str, ...]
    cpu_s: Floats
    cores: Floats

    @classmethod
    def make(cls, hosts: int, categories: int, service: str = "shop", seed: int = 7) -> "MadeFleet":
        rng = np.random.default_rng(seed)
        kinds = np.arange(hosts) % 3
        affinity = rng.lognormal(0, 0.6, (3, categories))
        cpu_s = rng.lognormal(-4.5, 0.8, categories) * affinity[kinds] * rng.lognormal(0, 0.05, (hosts, 1))
        names = tuple(sorted(f"POST /work/k{number:03}|1K|none|browser|DE" for number in range(categories)))
        cores = np.array([2.0, 4.0, 8.0])[kinds]
        return cls(service, tuple(f"h{number:04}" for number in range(hosts)), names, cpu_s, cores)

    def fingerprint(self, host: int, sequence: int, time_us: int | None = None, boot_id: str = "b1") -> Fingerprint:
        """What a host measured: the truth with some noise, which differs by sequence number."""
        rng = np.random.default_rng((host, sequence))
        load = 0.3 + 0.4 * rng.random()
        values = {
            "cpu_util": load,
            "cores": self.cores[host],
            "host_mem_bytes": 2e9,
            "mem_limit_bytes": 8e9,
            "host_inflight": float(rng.integers(0, 8)),
            "slots": self.cores[host] * 4,
            "background_cores": 0.1,
            "host_rate_rps": 100.0,
        }
        time_us = clock_us() if time_us is None else time_us
        return Fingerprint(
            self.service,
            self.hosts[host],
            boot_id,
            sequence,
            time_us,
            "made",
            self.categories,
            np.array([values[name] for name in FINGERPRINT_HOST_COLUMNS]),
            self.history(host, sequence, time_us),
        )

    def history(self, host: int, sequence: int, time_us: int) -> HistoryBlock:
        """The history of a host after a few windows in which it measured the truth with some noise."""
        rng = np.random.default_rng((host, sequence, 1))
        count, span_us = len(self.categories), round(FORM.window_s * US)
        own = History(1, count, FORM.window_s, FORM.halflife_s)
        place, none = np.arange(count), np.full(count, np.nan)
        rate, p50, p99 = np.exp(self.truth()[host]).T
        last_us = max(time_us // span_us, _WINDOWS) * span_us
        for end_us in range(last_us - (_WINDOWS - 1) * span_us, last_us + 1, span_us):
            noise, requests = rng.lognormal(0, 0.05, (4, count)), rng.integers(5, 60, count)
            windows = {
                "host": np.zeros(count, dtype=np.int64),
                "category": place,
                "requests": requests,
                "measured": requests,
                "errors": np.zeros(count),
                "throughput_rps": rate * noise[0],
                "latency_p50_s": p50 * noise[1],
                "latency_p90_s": p50 * 2 * noise[2],
                "latency_p99_s": p99 * noise[3],
                "cpu_mean_s": self.cpu_s[host] * noise[0],
                "bytes_in_mean": none,
                "inflight_mean": none,
            }
            loads = {"host": np.zeros(1, dtype=np.int64), "slots": np.full(1, self.cores[host] * 4)}
            loads.update({name: np.full(1, 0.3) for name in LOAD_COLUMNS if name not in ("cores", "slots")})
            own.observe(end_us, windows, {**loads, "cores": self.cores[host : host + 1]})
        cells, host_values = own.columns()[0].astype(np.float32), own.host_values()[0].astype(np.float32)
        return HistoryBlock(
            HISTORY_SCHEMA, FORM.window_s, FORM.halflife_s, last_us, self.categories, cells, host_values
        )

    def truth(self) -> Floats:
        """Logs of throughput, median and 99th percentile of latency, shape (hosts, categories, 3)."""
        cpu_s = self.cpu_s
        return np.log(np.stack([(self.cores[:, None] - 0.1) / cpu_s, cpu_s * 2, cpu_s * 7], axis=-1))

    def states(self, sequence: int, time_us: int = 10**9 * US) -> dict[str, Any]:
        """The hosts as the engine knows them after their fingerprints."""
        from fingerpost.serving.fleet_state import HostState

        made = [self.fingerprint(place, sequence, time_us) for place in range(len(self.hosts))]
        return {each.host: HostState(each, time_us, 1) for each in made}

    def report(self, host: int, sequence: int, time_us: int | None = None, boot_id: str = "b1") -> WindowReport:
        """What a host's agent tells after a window: the truth with some noise, which differs by sequence number.

        Args:
            time_us: when, right after the window; None: now, each new sequence number a window later than the last.
        """
        rng = np.random.default_rng((host, sequence))
        span_us = round(FORM.window_s * US)
        end_us = _next_end_us(self.service, sequence) if time_us is None else time_us // span_us * span_us
        time_us = clock_us() if time_us is None else time_us
        count = len(self.categories)
        rate, p50, p99 = np.exp(self.truth()[host]).T
        noise, requests = rng.lognormal(0, 0.03, (4, count)), rng.integers(20, 240, count).astype(np.float64)
        told = {
            "requests": requests,
            "errors": np.zeros(count),
            "measured": requests,
            "throughput_rps": rate * noise[0],
            "latency_p50_s": p50 * noise[1],
            "latency_p90_s": p50 * 2 * noise[2],
            "latency_p99_s": p99 * noise[3],
            "cpu_mean_s": self.cpu_s[host] * noise[0],
        }
        unknown = np.full(count, np.nan)
        windows = np.stack([told.get(name, unknown) for name in WINDOW_COLUMNS], axis=1).astype(np.float32)
        cores = self.cores[host]
        load = {"cpu_util": 0.3 + 0.4 * rng.random(), "cores": cores, "slots": cores * 4, "background_cores": 0.1}
        sample = {"cores": cores, "host_mem_bytes": 2e9, "mem_limit_bytes": 8e9, "slots": cores * 4}
        sample["host_inflight"] = float(rng.integers(0, 8))
        return WindowReport(
            *(self.service, self.hosts[host], "host", self.hosts[host], boot_id, sequence, time_us),
            *(end_us, FORM.window_s, "made", self.categories, windows),
            np.array([load.get(name, 0.3) for name in LOAD_COLUMNS], dtype=np.float32),
            np.array([sample[name] for name in SAMPLE_COLUMNS]),
        )

    def packed(self, sequence: int, time_us: int | None = None) -> list[bytes]:
        """The reports of all hosts."""
        return [pack(self.report(host, sequence, time_us)) for host in range(len(self.hosts))]

    def packed_messages(self, sequence: int, rounds: int = 1) -> list[bytes]:
        """The reports of all hosts, each as a message of its own, as agents send them, in some rounds.

        What is told in later rounds is that of the first, off by some thousandths: to measure anew takes long.
        """
        told = [self.report(host, sequence) for host in range(len(self.hosts))]
        return [message([pack(_again(each, turn))]) for turn in range(rounds) for each in told]

    def renamed(self, host: str) -> "MadeFleet":
        """The same with another name for its first and only host."""
        return replace(self, hosts=(host,))


_ENDS: dict[tuple[str, int], int] = {}


def _next_end_us(service: str, sequence: int) -> int:
    """The end of a window of the last days, later than any of another sequence number that was asked for before."""
    first = round(time.time() - 20 * 86_400) // 10 * 10
    return _ENDS.setdefault((service, sequence), (first + 1000 * len(_ENDS)) * US)


def _again(told: WindowReport, turn: int) -> WindowReport:
    windows = told.windows.copy()
    windows[:, 3:] *= np.float32(1 / (1 + turn / 1000))
    end_us = told.end_us + turn * round(told.window_s * US)
    return replace(told, sequence=told.sequence + turn, time_us=told.time_us + turn, end_us=end_us, windows=windows)


def state_of(fingerprint: Fingerprint, received_us: int = 1000 * US, first_seen_us: int = 0) -> HostState:
    """A host as the engine knows it after its first fingerprint."""
    return HostState(fingerprint, received_us, first_seen_us)


def states_of(made: MadeFleet, sequence: int = 1, **changes: int) -> dict[str, HostState]:
    """All hosts of a fleet, as the engine knows them."""
    return {host: state_of(made.fingerprint(place, sequence, NOW), **changes) for place, host in enumerate(made.hosts)}


def fit_model(fleet: MadeFleet, trees: int, leaves: int, rounds: int = 4, factor: float = 1.0) -> Any:
    """A ModelBundle that learned the fleet's true values from its histories, and serves `factor` times as much."""
    from fingerpost.features.definition import TARGETS
    from fingerpost.features.fleet_features import ChosenCells, FleetFeatures, request_types
    from fingerpost.serving.fleet_state import build_fleet
    from fingerpost.serving.histories import gather
    from fingerpost.training.bundle import Blend, Encoder, ModelBundle
    from fingerpost.training.fit import DEFAULT_PARAMS, TrainingSet, fit_booster

    vocabulary: dict[str, list[str]] = {name: [] for name in ATTRIBUTES}
    for each in fleet.categories:
        for name, value in category_attributes(each).items():
            vocabulary[name] = sorted({*vocabulary[name], value})
    encoder = Encoder(vocabulary)
    host, category = np.divmod(np.arange(fleet.cpu_s.size), len(fleet.categories))
    matrices = []
    for sequence in range(rounds):
        histories = gather(build_fleet(fleet.service, fleet.states(sequence), 4096), FORM)
        types, now_us = request_types(histories.categories), histories.now_us
        found = FleetFeatures(histories.cells, histories.host_values, types, now_us).of(ChosenCells(host, category))
        matrices.append(encoder.encode_cells(found.numeric, histories.categories, category))
    matrix = np.concatenate(matrices)
    truth = fleet.truth()
    params = {**DEFAULT_PARAMS, "num_leaves": leaves, "learning_rate": 0.3, "min_data_in_leaf": 5}
    boosters, blends = {}, {}
    for place, target in enumerate(TARGETS):
        outcome = np.tile(truth[..., place].reshape(-1), rounds)
        blends[target] = Blend.fit(matrix, outcome, target)
        data = TrainingSet(matrix, outcome, np.ones(len(outcome)))
        boosters[target] = [fit_booster(data, blends[target], target, params, rounds=trees)]
    shifts = dict.fromkeys(TARGETS, float(np.log(factor)))
    return ModelBundle(boosters, blends, encoder, shifts)


def register_model(model: Any, tracking_url: str, name: str, alias: str | None = "champion") -> str:
    """Registers a model in MLflow as training does; returns its version."""
    import mlflow

    mlflow.set_tracking_uri(tracking_url)
    experiment = mlflow.get_experiment_by_name(f"{name}-made")
    if experiment is None:
        # Beside the database: the default is the folder we happen to run in.
        path = Path(tracking_url.removeprefix("sqlite:///"))
        beside = (path.parent / "mlartifacts").as_uri() if tracking_url.startswith("sqlite:") else None
        mlflow.create_experiment(f"{name}-made", artifact_location=beside)
    mlflow.set_experiment(f"{name}-made")
    with mlflow.start_run(), tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "bundle")
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="fingerpost.training.pyfunc",
            data_path=str(Path(folder) / "bundle"),
            pip_requirements=["lightgbm"],
            registered_model_name=name,
        )
    version = str(logged.registered_model_version)
    if alias:
        mlflow.MlflowClient(tracking_url).set_registered_model_alias(name, alias, version)
    return version
