"""An experiment's pairs and verdict from the lake, as of now."""

from dataclasses import asdict, dataclass, replace

from fingerpost.abtest.experiment.pairs import Pairs, switchback_pairs
from fingerpost.abtest.experiment.verdict import Rules, Verdict, judge
from fingerpost.abtest.results import ComparisonResult
from fingerpost.clock import US, clock_us
from fingerpost.experiment import Experiment
from fingerpost.lake import read_frame
from fingerpost.settings import Settings

COLUMNS = ("time", "status", "duration_s", "arm", "predicted_cost")


@dataclass(frozen=True)
class Evaluation:
    """The verdict on an experiment, and the pairs it rests on."""

    experiment: Experiment
    verdict: Verdict
    pairs: Pairs

    def result(self) -> ComparisonResult:
        """The result that is logged, and read by the promotion's gates."""
        about = {"champion": self.experiment.champion, "challenger": self.experiment.challenger}
        return ComparisonResult.read({**self.verdict.to_json(), **about, "samples": self.verdict.pairs})


def evaluate(settings: Settings, experiment: Experiment, now_us: int | None = None) -> Evaluation:
    """Reads the request records of the experiment's time and judges them.

    A slot is over when its records can be in the lake: two batches of the agents and one ingest after its end.

    Args:
        now_us: the present, microseconds since 1970; None: the clock's.
    """
    now = clock_us() if now_us is None else now_us
    until = min(now, experiment.end_us + settle_us(settings))
    # Requests that end after the last slot began in it.
    records = read_frame(settings.lake, "requests", experiment.service, experiment.begin_us, until + US, COLUMNS)
    pairs = switchback_pairs(records, experiment, until - settle_us(settings))
    over = now >= experiment.end_us + settle_us(settings)
    verdict = judge(pairs, Rules.of(settings), experiment.pairs, over)
    return Evaluation(experiment, replace(verdict, experiment=asdict(experiment)), pairs)


def settle_us(settings: Settings) -> int:
    """How long records take to the lake at most, as a rule, microseconds."""
    return round((2 * settings.agent_batch_s + settings.ingest_every_s) * US)
