"""Which batches a merged date is made of, so that a batch that comes again is known."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MERGED = "merged.parquet"
_NAMES = ".merged.npy"

Hashes = NDArray[np.uint64]


def hash_names(names: Sequence[str]) -> Hashes:
    """64 bits of every file name, in order; a file that is itself merged is none."""
    digests = (hashlib.sha256(name.encode()).digest()[:8] for name in names if name != MERGED)
    return np.unique(np.array([int.from_bytes(each, "big") for each in digests], dtype=np.uint64))


def save_names(folder: Path, hashes: Hashes) -> None:
    """Keeps the hashes in the folder of the date."""
    np.save(folder / _NAMES, np.unique(hashes), allow_pickle=False)


def load_names(folder: Path) -> Hashes:
    """The hashes of a date's merged batches; none where nothing was merged."""
    path = folder / _NAMES
    return np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else np.array([], dtype=np.uint64)


def was_merged(folder: Path, name: str) -> bool:
    """Whether a batch is already in the merged file of a date."""
    known, [wanted] = load_names(folder), hash_names([name])
    place = int(np.searchsorted(known, wanted))
    return place < len(known) and bool(known[place] == wanted)
