"""Which request records travel: those with a decision, sampled with known weights, so that sums stay unbiased."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

# What a record's place in the sample is drawn by; the same record is drawn alike by whoever reads it.
_IDENTITY = ("time", "host", "method", "route", "bytes_in", "bytes_out", "duration_s")
_SALT = b"fingerpost decisions"
# Below this a host was not the greedy choice: with one best host that has the rest of the probability.
EXPLORED_BELOW = 0.5


def has_decision(row: Mapping[str, Any]) -> bool:
    """Whether a request record tells how it was routed, which experiments and estimates learn from."""
    return row.get("policy") is not None and (row.get("propensity") is not None or row.get("arm") is not None)


def was_explored(row: Mapping[str, Any]) -> bool:
    """Whether another host was the greedy choice."""
    propensity = row.get("propensity")
    return propensity is not None and propensity < EXPLORED_BELOW


def sample_decisions(rows: Sequence[Mapping[str, Any]], most: float) -> list[dict[str, Any]]:
    """The records to send out of all of one report, each with its `weight`.

    Every explored request is kept, with weight 1; of the others a share, so that about `most` are. Should the explored
    ones alone be more than that, as under a policy that always draws at random, they are sampled as well. A kept
    record weighs 1 / the share of its kind, which does not depend on which records were drawn: weighted sums are
    unbiased (Horvitz and Thompson, 1952).

    Args:
        rows: request records; those without a decision are left out.
        most: records to keep on average, of each kind.

    Returns:
        Copies of the kept records, in their order; weights that they had are multiplied.
    """
    decided = [row for row in rows if has_decision(row)]
    explored = sum(map(was_explored, decided))
    weights = {True: max(1.0, explored / most), False: max(1.0, (len(decided) - explored) / most)}
    kept = []
    for row in decided:
        weight = weights[was_explored(row)]
        if drawn(row, 1 / weight):
            kept.append({**row, "weight": weight * (row.get("weight") or 1.0)})
    return kept


def drawn(row: Mapping[str, Any], share: float) -> bool:
    """Whether a record is in a sample of this share of all, 0 to 1; whatever is in a sample is in each larger one."""
    if share >= 1:
        return True
    identity = "\t".join(str(row.get(name)) for name in _IDENTITY)
    return zlib.crc32(identity.encode("utf-8", "surrogatepass"), zlib.crc32(_SALT)) < share * 2**32
