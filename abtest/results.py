"""Results of comparisons as they lie in the registry: written by the comparisons, read by the gates of promotion."""

from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_jsonable_python

from fingerpost.errors import FingerpostError
from fingerpost.shown import markdown_text
from fingerpost.training.registry import Registry
from fingerpost.training.runs import VERDICT

# The same verdict is logged again after this time: it may rest on more by then.
_REPEAT_S = 1800.0
_MAX_WHY = 300

BETTER, WORSE, NO_DIFFERENCE, GUARDRAIL = "better", "worse", "no difference", "guardrail"
DRIFT, NO_DRIFT, TOO_LITTLE = "drift", "no drift", "too little data"


class Result(BaseModel):
    """A JSON object whose named fields are checked; other fields are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    @classmethod
    def read(cls, document: Any) -> Self:
        """Reads a result.

        Raises:
            FingerpostError: it is not one; the message names the field.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise FingerpostError(
                f"its result cannot be read: {where} = {first['input']!r}: {first['msg']}"[:_MAX_WHY]
            ) from error

    def to_json(self) -> dict[str, Any]:
        """The plain values; numbers that are not finite are None."""
        return dict(to_jsonable_python(self.model_dump(), inf_nan_mode="null"))


class ComparisonResult(Result):
    """A shadow comparison, off-policy estimate or experiment.

    Args:
        verdict: of the challenger; anything but better, no difference, worse and guardrail decides nothing.
        samples: number of observations; experiments of earlier versions wrote it as `pairs`.
        champion, challenger: the versions compared; None where the result does not name them.
        reason: why, as a sentence.
    """

    verdict: Literal["better", "worse", "no difference", "undecided", "guardrail"]
    samples: int = Field(ge=0, validation_alias=AliasChoices("samples", "pairs"))
    champion: str | None = None
    challenger: str | None = None
    reason: str = ""


class DataTests(Result):
    """Data tests of a drift report; `passed` is None where there was too little data to judge."""

    passed: bool | None
    failed: list[str] = []


class DriftResult(Result):
    """A drift report of a version."""

    verdict: Literal["drift", "no drift", "too little data"]
    model_version: str | None = None
    reasons: list[str] = []
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
