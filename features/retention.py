"""What leaves the lake, and when: partitions past their age, and the oldest of the quarantine."""

import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fingerpost.lake import QUARANTINE, remove_oldest, service_folder

_KINDS = ("requests", "samples", "fingerprints", "counts", "windows", "loads", "features", "history")
_DATE = re.compile(r"date=(\d{4}-\d{2}-\d{2})")


def apply_retention(
    lake: Path, service: str, max_age_days: float, max_quarantine_mb: float, now_s: float | None = None
) -> int:
    """Removes the service's partitions that lie wholly before `max_age_days` ago, and trims the quarantine.

    Returns:
        How many partitions and files went.
    """
    now = datetime.fromtimestamp(time.time() if now_s is None else now_s, UTC)
    oldest = (now - timedelta(days=max_age_days)).strftime("%Y-%m-%d")
    removed = 0
    for kind in _KINDS:
        for folder in service_folder(lake, kind, service).glob("date=*"):
            found = _DATE.fullmatch(folder.name)
            if found and found.group(1) < oldest:
                shutil.rmtree(folder)
                removed += 1
    return removed + remove_oldest(lake / QUARANTINE, max_quarantine_mb * 2**20)
