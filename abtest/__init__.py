"""Is a new version better, and may it serve: comparison, experiments, drift, promotion and rollback.

May import `serving`, `training`, `features`, `routing`, `fleet` and `fingerpost`.
"""
