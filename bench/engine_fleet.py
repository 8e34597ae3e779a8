"""A made-up fleet whose truth is known, reporting fingerprints; and models of it, registered like real ones."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.fingerprint import CELL_COLUMNS, HOST_COLUMNS, Fingerprint, message, pack

_US = 1_000_000
Floats = NDArray[np.float64]


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
        dice = np.random.default_rng(seed)
        kinds = np.arange(hosts) % 3
        affinity = dice.lognormal(0, 0.6, (3, categories))
        cpu_s = dice.lognormal(-4.5, 0.8, categories) * affinity[kinds] * dice.lognormal(0, 0.05, (hosts, 1))
        names = tuple(sorted(f"POST /work/k{number:03}|1K|none|browser|DE" for number in range(categories)))
        cores = np.array([2.0, 4.0, 8.0])[kinds]
        return cls(service, tuple(f"h{number:04}" for number in range(hosts)), names, cpu_s, cores)

    def fingerprint(self, host: int, sequence: int, time_us: int | None = None, boot_id: str = "b1") -> Fingerprint:
        """What a host measured: the truth with some noise, which differs by sequence number."""
        dice = np.random.default_rng((host, sequence))
        count = len(self.categories)
        load = 0.3 + 0.4 * dice.random()
        cpu = self.cpu_s[host] * dice.lognormal(0, 0.03, count)
        cells = {
            "requests": dice.integers(20, 400, count).astype(float),
            "rate_rps": dice.lognormal(0, 1, count),
            "error_rate": np.full(count, 0.002),
            "latency_mean_s": cpu * 1.3 / (1 - load),
            "latency_p50_s": cpu * 1.1 / (1 - load),
            "latency_p99_s": cpu * 4.0 / (1 - load),
            "cpu_s": cpu,
            "cpu_attributed_s": cpu * 1.02,
            "cpu_error_s": cpu * 0.02,
            "cpu_known": np.ones(count),
            "mem_bytes": np.full(count, 1e6),
            "mem_error_bytes": np.full(count, np.nan),
            "inflight_mean": np.full(count, 3.0),
            "age_s": dice.exponential(2, count),
        }
        values = {
            "cpu_util": load,
            "cores": self.cores[host],
            "host_mem_bytes": 2e9,
            "mem_limit_bytes": 8e9,
            "host_inflight": float(dice.integers(0, 8)),
            "slots": self.cores[host] * 4,
            "background_cores": 0.1,
            "host_rate_rps": 100.0,
        }
        return Fingerprint(
            self.service,
            self.hosts[host],
            boot_id,
            sequence,
            time.time_ns() // 1000 if time_us is None else time_us,
            60.0,
            "made",
            self.categories,
            np.array([values[name] for name in HOST_COLUMNS]),
            np.stack([cells[name] for name in CELL_COLUMNS], axis=1),
        )

    def packed(self, sequence: int, time_us: int | None = None) -> list[bytes]:
        """The fingerprints of all hosts."""
        return [pack(self.fingerprint(host, sequence, time_us)) for host in range(len(self.hosts))]

    def packed_messages(self, sequence: int) -> list[bytes]:
        """The fingerprints of all hosts, each as a message of its own, as agents send them."""
        return [message([each]) for each in self.packed(sequence)]

    def renamed(self, host: str) -> "MadeFleet":
        """The same with another name for its first and only host."""
        return replace(self, hosts=(host,))


def fit_cell_model(fleet: MadeFleet, trees: int, leaves: int, rounds: int = 4, factor: float = 1.0) -> Any:
    """A CellModel that corrects the fleet's noisy estimates towards the truth times `factor`, without lingering."""
    import lightgbm

    from serving.baseline import refer
    from serving.cell_features import FEATURES, attribute_codes, cell_features, vocabulary_of
    from serving.cell_model import CellModel
    from serving.fleet_state import HostState, build_fleet
    from serving.scorer import TARGETS

    vocabulary = vocabulary_of(fleet.categories)
    truth = np.log(np.stack([(fleet.cores[:, None] - 0.1) / fleet.cpu_s, fleet.cpu_s * 2, fleet.cpu_s * 7], axis=-1))
    inputs, wanted = [], []
    for sequence in range(rounds):
        states = {
            host: HostState(fleet.fingerprint(number, sequence, _US), b"", 1, 1)
            for number, host in enumerate(fleet.hosts)
        }
        state = build_fleet(fleet.service, states, 4096)
        reference = refer(state)
        cells = np.ones((len(fleet.hosts), len(fleet.categories)), dtype=bool)
        codes = attribute_codes(state.categories, vocabulary)
        inputs.append(cell_features(state, reference, codes, cells))
        wanted.append((truth + np.log(factor) - reference.filled()).reshape(-1, len(TARGETS)))
    matrix, target = np.concatenate(inputs), np.concatenate(wanted)
    params = {"objective": "regression_l1", "num_leaves": leaves, "verbosity": -1, "num_threads": 1, "seed": 7}
    boosters = {
        name: lightgbm.train(
            params, lightgbm.Dataset(matrix, target[:, place], feature_name=list(FEATURES)), num_boost_round=trees
        )
        for place, name in enumerate(TARGETS)
    }
    return CellModel(boosters, vocabulary)


def register_model(model: Any, tracking_url: str, name: str, alias: str | None = "champion") -> str:
    """Registers a model in MLflow as training does; returns its version."""
    import mlflow

    mlflow.set_tracking_uri(tracking_url)
    experiment = mlflow.get_experiment_by_name(f"{name}-made")
    if experiment is None:
        # Beside the database: the default is the folder we happen to run in.
        beside = Path(tracking_url.removeprefix("sqlite:///")).parent / "mlartifacts"
        mlflow.create_experiment(f"{name}-made", artifact_location=beside.as_uri())
    mlflow.set_experiment(f"{name}-made")
    with mlflow.start_run(), tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "bundle")
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="training.pyfunc",
            data_path=str(Path(folder) / "bundle"),
            pip_requirements=["lightgbm"],
            registered_model_name=name,
        )
    version = str(logged.registered_model_version)
    if alias:
        mlflow.MlflowClient(tracking_url).set_registered_model_alias(name, alias, version)
    return version
