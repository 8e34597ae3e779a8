"""A deliberately bad model version, for the gates to stop: it takes fast hosts for slow ones, and slow ones for fast.

`python -m examples.demo.bad_version` registers it, as somebody might whose telemetry has mixed up the hosts, and prints
its version; `python -m examples.demo.bad_version VERSION` makes that the challenger.
"""

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from fingerpost.environment import apply_tool_environment
from fingerpost.errors import FingerpostError
from fingerpost.experiment import CHAMPION
from fingerpost.features.build import load_training_rows
from fingerpost.features.definition import NUMERIC_FEATURES
from fingerpost.settings import Settings, get_settings
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.registration import register_bundle
from fingerpost.training.registry import Registry

# Twice the way to the fleet's mean mirrors a cell at it; no further, or the engine itself would refuse the version.
_MIRROR, _MOST = 2.0, np.log(4.0)


def make_bad(settings: Settings) -> str:
    """Registers the champion's mirror image; returns its version.

    Raises:
        FingerpostError: there is no champion.
    """
    registry = Registry(settings)
    present = registry.version_of(CHAMPION)
    if present is None:
        raise FingerpostError(f"{registry.name} has no champion yet")
    rows = load_training_rows(settings.lake, settings.service, 20_000)
    bundle = registry.load(present)
    bad = replace(bundle, boosters={**bundle.boosters, **_mirrored(bundle, bundle.encoder.encode(rows))})
    version = register_bundle(registry, bad, rows.tail(100), {"made_of": present, "purpose": "a bad version"})
    registry.describe(version, "Made to be bad: it takes fast hosts for slow ones.")
    return version


def _mirrored(bundle: ModelBundle, matrix: np.ndarray) -> dict[str, list[Any]]:
    """Boosters that bring every cell to the other side of its category's mean over the fleet."""
    import lightgbm as lgb

    made = {}
    for target in bundle.boosters:
        away = np.nan_to_num(matrix[:, NUMERIC_FEATURES.index(f"{target}_fleet")])
        wanted = np.clip(_MIRROR * away, -_MOST, _MOST)
        params = {"objective": "l2", "num_leaves": 63, "min_data_in_leaf": 5, "verbosity": -1, "num_threads": 1}
        made[target] = [lgb.train(params, lgb.Dataset(matrix, wanted), num_boost_round=60)]
    return made


def main() -> None:
    settings = get_settings()
    apply_tool_environment(settings)
    if sys.argv[1:]:
        Registry(settings).set_challenger(sys.argv[1])
    else:
        print(make_bad(settings))


if __name__ == "__main__":
    main()
