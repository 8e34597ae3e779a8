"""Names the policies a simulation can run, and the numbers the kernel knows them by; sources: docs/simulator.md."""

RANDOM, ROUND_ROBIN, LEAST_REQUEST, LEAST_REQUEST_FULL, PEAK_EWMA, ORCA, PREQUAL, C3, FINGERPOST = range(9)

POLICIES = {
    "random": RANDOM,
    "round_robin": ROUND_ROBIN,
    "least_request": LEAST_REQUEST,
    "least_request_full": LEAST_REQUEST_FULL,
    "peak_ewma": PEAK_EWMA,
    "orca": ORCA,
    "prequal": PREQUAL,
    "c3": C3,
    "fingerpost": FINGERPOST,
}
