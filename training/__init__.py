"""Fits, tunes, backtests and registers models; `registry` is all that knows MLflow's registry.

May import `features`, `routing` and the core.
"""
