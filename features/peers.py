"""Estimates a host's cell from other hosts: by request type, and by the hosts that resemble it."""

from dataclasses import dataclass

import numpy as np

from fingerpost.arrays import Floats, Ints

# Hosts that others are compared with: more cost time and add little.
MAX_ANCHORS = 64
# Hosts closer than this (root mean square, log scale) are alike.
_NEAR = 0.15
# A ratio known from this many categories is believed by half.
_HALF_BELIEF = 1.0
_TINY = 1e-12


@dataclass(frozen=True)
class PeerEstimates:
    """Estimates of one quantity from other cells, logs; the cell itself takes no part in its own. NaN: not known.

    Args:
        fleet: mean of the category on the other hosts, shape (H, C).
        type_ratio, host_ratio: mean log ratio of the host to the fleet over its other categories of the same request
            type, and over all, drawn towards 0 where few are known, shape (H, C).
        peers: the category on the hosts that resemble this one, shape (H, C).
        hosts: number of hosts that know the category, shape (C,).
    """

    fleet: Floats
    type_ratio: Floats
    host_ratio: Floats
    peers: Floats
    hosts: Ints


def estimate_from_peers(values: Floats, types: Ints) -> PeerEstimates:
    """What cells tell about each other.

    Args:
        values: logs of one quantity, shape (H, C), NaN where a cell is not known.
        types: request type of each category as an index, shape (C,).
    """
    known = np.isfinite(values)
    clean = np.where(known, values, 0.0)
    count = known.sum(axis=0)
    total = clean.sum(axis=0)
    others = count - known
    fleet = np.divide(total - clean, others, out=np.full(values.shape, np.nan), where=others > 0)
    # Ratios are to the mean of all hosts, and only where there is another one to compare with.
    comparable = known & (count > 1)
    centre = np.divide(total, count, out=np.zeros(len(count)), where=count > 0)
    ratio = np.where(comparable, clean - centre, 0.0)
    member = np.equal(types[:, None], np.arange(types.max(initial=0) + 1)).astype(np.float64)  # (C, T)
    in_type = ((ratio @ member)[:, types] - ratio, (comparable @ member)[:, types] - comparable)
    in_all = (ratio.sum(axis=1)[:, None] - ratio, comparable.sum(axis=1)[:, None] - comparable)
    return PeerEstimates(
        fleet,
        np.where(in_type[1] > 0, in_type[0] / (in_type[1] + _HALF_BELIEF), np.nan),
        np.where(in_all[1] > 0, in_all[0] / (in_all[1] + _HALF_BELIEF), np.nan),
        _peers(np.where(known, clean - centre, 0.0), known.astype(np.float64)) + centre,
        count,
    )


def _peers(values: Floats, known: Floats) -> Floats:
    """Nearest-neighbour estimate over hosts: each weighs by the inverse square of its distance squared.

    The distance is the root mean square difference over categories that both know; a general difference in level
    between the two is added to what the other knows.
    """
    anchors = np.argsort(-known.sum(axis=1), kind="stable")[:MAX_ANCHORS]
    theirs, they_know = values[anchors], known[anchors]
    common = known @ they_know.T
    difference = values @ they_know.T - known @ theirs.T
    squares = (values**2) @ they_know.T - 2 * values @ theirs.T + known @ (theirs**2).T
    distance = np.maximum(squares, 0.0) / np.maximum(common, 1.0)
    weight = np.where(common > 0, common / (distance + _NEAR**2) ** 2, 0.0)
    weight[anchors, np.arange(len(anchors))] = 0.0  # nobody is its own peer
    shift = difference / (common + 3 * _HALF_BELIEF)
    weights = weight @ they_know
    sums = weight @ theirs + (weight * shift) @ they_know
    return np.divide(sums, weights, out=np.full(values.shape, np.nan), where=weights > _TINY)
