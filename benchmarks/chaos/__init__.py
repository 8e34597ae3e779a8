"""`python -m benchmarks chaos`: a small real platform under load, whose parts are killed, cut off and damaged.

`host` is what is routed to, `load` the clients, `platform` what runs, `faults` what is done to it, `judge` what must
hold in the end, `soak` the same platform over a long time.
"""
