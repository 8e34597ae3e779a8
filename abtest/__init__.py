"""Which of two model versions serves better: shadow comparison, off-policy estimates, experiments and their statistics.

May import everything below it (serving, training, features, routing, fleet, fingerpost); nothing here fetches or serves.
"""
