"""The prediction engine: the champion over the latest fingerprints, by HTTP.

May import `training`, `features`, `routing`, `fleet` and `fingerpost`.
"""
