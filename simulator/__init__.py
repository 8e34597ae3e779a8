"""Simulates a fleet by discrete events, under peers' policies and ours, beside the bound of what it could carry.

`scenario` and `fleet` say what happens, `kernel` runs it; `run` adds predictions and routing's own guard, `sweep`
compares policies. May import `training`, `features`, `routing` and the core. Modules that need numba or LightGBM are
imported where a simulation runs, never by the command line.
"""
