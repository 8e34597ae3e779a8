"""Tunes, fits, calibrates and scores models, and registers them in MLflow.

`train` is the whole step; `backtest` scores on telemetry and registers nothing. May import `features`, `routing` and
the core; LightGBM, Optuna and MLflow are imported where they are used.
"""
