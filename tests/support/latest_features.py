"""The features of all cells as of the last window, straight from the replay's history: what serving is held against."""

from pathlib import Path

import numpy as np
import pandas as pd

from fingerpost.features import build
from fingerpost.features.fleet_features import ChosenCells, FleetFeatures, request_types
from fingerpost.features.outside import events_in_lake, outside_of
from fingerpost.features.prepare import FeatureSettings
from fingerpost.features.replay import Replay, frame_of
from fingerpost.lake import dates


def features_of(replay: Replay) -> pd.DataFrame:
    """Features and naive forecasts of every host for every category, as of the last window's end."""
    host, category = np.divmod(np.arange(len(replay.hosts) * len(replay.categories)), len(replay.categories))
    history = replay.history
    types, now_us = request_types(replay.categories), history.now_us
    outside = replay._outside.at(now_us)
    fleet = FleetFeatures(history.columns(), history.host_values(), types, now_us, outside)
    found = fleet.of(ChosenCells(host, category))
    return frame_of(np.full(len(host), now_us), host, category, found, replay.hosts, replay.categories)


def latest_features(lake: Path, settings: FeatureSettings, service: str = "shop") -> pd.DataFrame:
    """The same of a lake that a features step with these settings has brought up to date."""
    days, table = dates(lake, "requests", service), build.load_categories(lake, service)
    outside = outside_of(service, events_in_lake(lake, service), settings.calendar, settings.holidays)
    return features_of(build._replay(lake, service, days, [], table, settings, outside)[0])
