"""The fleet simulator: discrete events, peer policies faithful to their sources, and the bound they are measured by.

May import `routing` and `fingerpost`. Modules that need numba are imported where a simulation runs, never by the
command line.
"""
