"""Names the policies a simulation can run, and the numbers the kernel knows them by; sources: docs/simulator.md."""

RANDOM, ROUND_ROBIN, LEAST_REQUEST, LEAST_REQUEST_FULL, PEAK_EWMA, ORCA, PREQUAL, C3 = range(8)
# These see categories; the last two send a share of the requests at random.
PEAK_EWMA_CATEGORY, PEAK_EWMA_CATEGORY_FULL, WEIGHTS_CATEGORY, GB_PANDAS, FINGERPOST = range(8, 13)
EXPLORES = GB_PANDAS
SEE_CATEGORIES = frozenset({PEAK_EWMA_CATEGORY, PEAK_EWMA_CATEGORY_FULL, WEIGHTS_CATEGORY, GB_PANDAS})

POLICIES = {
    "random": RANDOM,
    "round_robin": ROUND_ROBIN,
    "least_request": LEAST_REQUEST,
    "least_request_full": LEAST_REQUEST_FULL,
    "peak_ewma": PEAK_EWMA,
    "orca": ORCA,
    "prequal": PREQUAL,
    "c3": C3,
    "peak_ewma_category": PEAK_EWMA_CATEGORY,
    "peak_ewma_category_full": PEAK_EWMA_CATEGORY_FULL,
    "weights_category": WEIGHTS_CATEGORY,
    "gb_pandas": GB_PANDAS,
    "fingerpost": FINGERPOST,
}


# What predicts for our policy, named after a colon: `fingerpost:ewma`; without, what the scenario says.
PREDICTED_BY = ("baseline", "learned", "ewma", "average", "oracle", "clairvoyant")


def parse_policy(name: str) -> tuple[str, str | None]:
    """The policy of a name, and what predicts for it, if the name says so.

    Raises:
        ValueError: there is no such policy.
    """
    policy, colon, kind = name.partition(":")
    if policy not in POLICIES or (colon and (policy != "fingerpost" or kind not in PREDICTED_BY)):
        raise ValueError(f"{name!r} is none of {', '.join(POLICIES)}, fingerpost:{', fingerpost:'.join(PREDICTED_BY)}")
    return policy, kind if colon else None
