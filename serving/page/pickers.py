"""Tells of the pickers that follow the table: how old the table of each is, and which of them do without."""

from collections.abc import Sequence
from typing import Any

from fingerpost.serving.page.fleet import number
from fingerpost.serving.pickers import Picker

_MAX_SHOWN = 100
# Pickers ask every 5 s at least, that is saved every 2 s and read every 5 s.
_TOLD_LATE_S = 12.0


def pickers_of(known: Sequence[Picker], now_us: int, table_ttl_s: float) -> dict[str, Any]:
    """The pickers as the page lists them.

    Args:
        known: those with the oldest table first.
        table_ttl_s: how long pickers use a table that nobody confirms.
    """
    listed = [
        {
            "name": each.name,
            "kind": each.kind,
            "table_age_s": number(age_s := each.age_s(now_us)),
            "expired": age_s > table_ttl_s + _TOLD_LATE_S,
        }
        for each in known
    ]
    return {"known": len(listed), "listed": listed[:_MAX_SHOWN]}


def said_of(pickers: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with them, a sentence each for the first three."""
    expired = [each for each in pickers if each["expired"]]
    found = [
        f"{each['kind'].replace('-', ' ')} {each['name']} has asked for no table for {each['table_age_s']:.0f} s: "
        "it picks without predictions, or has ended."
        for each in expired[:3]
    ]
    return [*found, *([f"So have {len(expired) - 3} more."] if len(expired) > 3 else [])]
