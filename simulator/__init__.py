"""The fleet simulator: discrete events, peer policies faithful to their sources, and the bound they are measured by.

May import `training`, `features`, `routing`, `fleet` and `fingerpost`. Modules that need numba or LightGBM are imported
where a simulation runs, never by the command line.
"""
