"""The arm of an experiment that is closed for gross harm: the other arm routes, from then on, whatever the slot.

It is closed within seconds, and for `HELD_S`. Whoever closed it looks at the other arm meanwhile: where that one does
as badly, something else is wrong, and the closing is withdrawn. Otherwise the arm has its next slots, since what befell
the service may be over by chance; closed in them again, it stays closed, and the experiment ends.
It is told as events are, so that all engines of a store know of it, and the lake.
"""

from collections.abc import Iterable

from fingerpost.clock import US
from fingerpost.events import MAX_NOTE, Event
from fingerpost.experiment import CONTROL, TREATMENT, Experiment

# Its kind among events; nobody can tell one from outside, and no feature is made of it.
CLOSED = "closed arm"
# How long an arm is closed at first, and how long each closing may be withdrawn, seconds.
HELD_S = 30.0
# So many closings in a row are for good: one follows another within so many periods of slots.
_CLOSINGS, _PERIODS = 2, 2.5


def suspects(experiment: Experiment) -> tuple[str, ...]:
    """The arms that may do harm: the new versions', which in a watch is the champion's."""
    return (CONTROL,) if experiment.purpose == "watch" else experiment.treatments


def other_arm(arm: str) -> str:
    """The arm that routes where this one is closed."""
    return TREATMENT if arm == CONTROL else CONTROL


def closing(experiment: Experiment, why: str, now_us: int, arm: str = "") -> Event:
    """The event by which a suspected arm is closed now; empty: the first of them."""
    note = f"{_mark(experiment, arm)}{why}"[:MAX_NOTE]
    return Event(CLOSED, experiment.service, "", now_us, None, note, told_us=now_us)


def standing(events: Iterable[Event], experiment: Experiment, arm: str = "") -> list[Event]:
    """The closings of this arm that were not withdrawn, the first one first."""
    return sorted(
        (each for each in _own(events, experiment, arm) if each.withdrawn_us is None), key=lambda each: each.told_us
    )


def closed_now(events: Iterable[Event], experiment: Experiment, now_us: int, arm: str = "") -> bool:
    """Whether a suspected arm is closed at a moment, microseconds since 1970."""
    row = _in_a_row(events, experiment, arm)
    return len(row) >= _CLOSINGS or any(now_us < each.told_us + HELD_S * US for each in row[-1:])


def confirmed(events: Iterable[Event], experiment: Experiment, now_us: int, arm: str = "") -> str | None:
    """Why a suspected arm is closed for good; None: it is not, or that may yet be withdrawn."""
    row = _in_a_row(events, experiment, arm)
    if len(row) < _CLOSINGS or now_us < row[_CLOSINGS - 1].told_us + HELD_S * US:
        return None
    return row[_CLOSINGS - 1].note.removeprefix(_mark(experiment, arm))


def _in_a_row(events: Iterable[Event], experiment: Experiment, arm: str) -> list[Event]:
    """The latest closings that followed each other; of those that several engines told at once the first."""
    row: list[Event] = []
    for each in standing(events, experiment, arm):
        if row and each.told_us < row[-1].told_us + HELD_S * US:
            continue
        if row and each.told_us > row[-1].told_us + HELD_S * US + _PERIODS * _period_us(experiment, each.told_us):
            row = []
        row.append(each)
        if len(row) == _CLOSINGS:
            break
    return row


def _period_us(experiment: Experiment, time_us: int) -> float:
    """From one pair of an arm to its next at a moment."""
    since = time_us - experiment.begin_us
    for part in experiment.parts:
        since -= round(part.pairs * part.period_us)
        if since < 0:
            return part.period_us * len(experiment.treatments)
    return experiment.parts[-1].period_us * len(experiment.treatments)


def withdrawn_us(events: Iterable[Event], experiment: Experiment, arm: str = "") -> int:
    """When a closing of this arm was withdrawn last, microseconds since 1970; 0: none was."""
    return max((each.withdrawn_us or 0 for each in _own(events, experiment, arm)), default=0)


def _own(events: Iterable[Event], experiment: Experiment, arm: str) -> list[Event]:
    return [each for each in events if each.kind == CLOSED and each.note.startswith(_mark(experiment, arm))]


def _mark(experiment: Experiment, arm: str) -> str:
    """What the notes of an arm's closings begin with; the first suspected arm is not named."""
    return f"{experiment.id}: " if arm in ("", suspects(experiment)[0]) else f"{experiment.id}/{arm}: "
