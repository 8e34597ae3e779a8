"""Simulates a fleet by discrete events, with peer policies and the capacity bound; runs routing's own code.

May import `training`, `features`, `routing` and the core; numba and LightGBM where a simulation runs.
"""
