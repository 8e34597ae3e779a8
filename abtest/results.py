"""Results of comparisons as they lie in the registry: written by the comparisons, read by the gates of promotion."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AliasChoices, Field

from fingerpost.errors import FingerpostError
from fingerpost.shown import markdown_text
from fingerpost.training.registry import Registry
from fingerpost.training.runs import VERDICT, Document

# The same verdict is logged again after this time: it may rest on more by then.
_REPEAT_S = 1800.0

BETTER, WORSE, NO_DIFFERENCE, GUARDRAIL = "better", "worse", "no difference", "guardrail"
# No certain gain, but certainly no loss beyond a margin.
NOT_WORSE = "not worse"
DRIFT, NO_DRIFT, TOO_LITTLE = "drift", "no drift", "too little data"


class Interval(Document):
    """A mean with its interval; None where it is not known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class RegretResult(Document):
    """The regret of the challenger's choices less that of the champion's, of a shadow comparison."""

    difference: Interval = Interval()


class ComparisonResult(Document):
    """A shadow comparison, off-policy estimate or experiment.

    Args:
        verdict: of the challenger; `undecided` decides nothing.
        samples: number of observations; experiments of earlier versions wrote it as `pairs`.
        champion, challenger: the versions compared; None where the result does not name them.
        reason: why, as a sentence.
        regret: of a shadow comparison.
    """

    verdict: Literal["better", "not worse", "worse", "no difference", "undecided", "guardrail"]
    samples: int = Field(ge=0, validation_alias=AliasChoices("samples", "pairs"))
    champion: str | None = None
    challenger: str | None = None
    reason: str = ""
    regret: RegretResult | None = None


class DataTests(Document):
    """Data tests of a drift report; `passed` is None where there was too little data to judge."""

    passed: bool | None
    failed: list[str] = Field(default_factory=list)


class DriftResult(Document):
    """A drift report of a version."""

    verdict: Literal["drift", "no drift", "too little data"]
    model_version: str | None = None
    reasons: list[str] = Field(default_factory=list)
    data: DataTests = DataTests(passed=None)

    def holds(self, gate: str) -> tuple[bool | None, str]:
        """Whether the gate `drift` or `data` holds, None if that is not known; and why not."""
        if gate == "data":
            return self.data.passed, "; ".join(self.data.failed)
        return {DRIFT: False, NO_DRIFT: True}.get(self.verdict), "; ".join(self.reasons)


def log_result(registry: Registry, kind: str, result: ComparisonResult) -> str | None:
    """Logs a result as evidence on its challenger; returns the run's id, None if the last result said the same lately.

    Args:
        kind: shadow, offpolicy or experiment.
        result: names both versions.
    """
    champion, challenger = str(result.champion), str(result.challenger)
    last = registry.latest_result(kind, challenger)
    if last is not None and _repeats(result, last):
        return None
    tags = {
        "challenger": challenger,
        "champion": champion,
        "verdict": result.verdict,
        "mlflow.note.content": markdown_text(result.reason),
    }
    with registry.run(kind, f"version {challenger} against {champion}: {result.verdict}", tags) as run:
        run.json(VERDICT, result.to_json())
    return run.id


def read_time(text: object) -> datetime | None:
    """A moment written as ISO 8601 with its time zone; None if it is not one."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else None


def _repeats(result: ComparisonResult, last: dict[str, Any]) -> bool:
    try:
        before = ComparisonResult.read(last["result"])
    except FingerpostError:
        return False
    at = read_time(last["at"])
    lately = at is not None and (datetime.now(UTC) - at).total_seconds() < _REPEAT_S
    return lately and (before.verdict, before.champion) == (result.verdict, result.champion)
