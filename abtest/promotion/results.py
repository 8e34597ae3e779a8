"""Results of comparisons as MLflow runs, where `evidence.gather` finds them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fingerpost.abtest.promotion.readings import read_comparison, read_time
from fingerpost.shown import markdown_text
from fingerpost.training.registry import Registry
from fingerpost.training.runs import VERDICT

# The same verdict again is logged after this: it may rest on more by then.
_REPEAT_S = 1800.0


def log_result(registry: Registry, kind: str, result: Mapping[str, Any], why: str) -> str | None:
    """Logs a result on `result["challenger"]`; None if it says what the last one said not long ago.

    Args:
        kind: shadow, offpolicy or experiment.
        result: JSON with `verdict`, `champion` and `challenger`, and a count of what it rests on.
        why: the verdict as a sentence.
    """
    challenger, verdict = str(result["challenger"]), str(result["verdict"])
    last = registry.latest_result(kind, challenger)
    if last is not None and isinstance(last["result"], dict):
        said, at = read_comparison(last["result"]), read_time(last["at"])
        fresh = at is not None and (datetime.now(UTC) - at).total_seconds() < _REPEAT_S
        if fresh and said.verdict == verdict and said.champion == str(result["champion"]):
            return None
    tags = {
        "challenger": challenger,
        "champion": str(result["champion"]),
        "verdict": verdict,
        "mlflow.note.content": markdown_text(why),
    }
    name = f"version {challenger} against {result['champion']}: {verdict}"
    with registry.run(kind, name, tags) as run:
        run.json(VERDICT, result)
    return run.id
