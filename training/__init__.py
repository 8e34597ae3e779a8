"""Splits by time, LightGBM models, tuning by Optuna, evaluation against naive forecasts, the MLflow registry.

May import `features`, `routing`, `fleet` and `fingerpost`.
"""
