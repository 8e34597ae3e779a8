"""Which of two model versions serves better: shadow comparison, off-policy estimates, experiments, their statistics.

May import `serving`, `training`, `features`, `routing`, `fleet` and `fingerpost`.
"""
