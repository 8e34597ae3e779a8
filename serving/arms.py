"""Which tables an experiment needs, and whether the models for them are there."""

from dataclasses import dataclass

from fingerpost.experiment import CONTROL, TREATMENT, Experiment
from fingerpost.serving.champion_scorer import ChampionScorer
from fingerpost.serving.models import Models

# So long before an experiment's first slot both tables are made.
_AHEAD_US = 30_000_000


@dataclass(frozen=True)
class ArmsPlan:
    """What to serve of a service's experiment now.

    Args:
        experiment: whose arms' tables are kept; None: there is none, or it cannot be run.
        challenger: the model of its second arm.
        problem: why an experiment that should run does not.
    """

    experiment: Experiment | None = None
    challenger: ChampionScorer | None = None
    problem: str | None = None


def plan_arms(models: Models, service: str, now_us: int) -> ArmsPlan:
    """The plan for a moment, microseconds since 1970; an experiment whose models are not there is not served at all.

    Then every table is the champion's, and names no arm: what is routed by it belongs to neither.
    """
    experiment = models.experiment(service)
    if experiment is None:
        return ArmsPlan()
    if isinstance(experiment, str):
        return ArmsPlan(problem=experiment)
    if not experiment.begin_us - _AHEAD_US <= now_us < experiment.end_us:
        return ArmsPlan()
    for arm in (CONTROL, TREATMENT):
        model, wanted = models.slot(service, arm).model, experiment.version_of(arm)
        if model is None or model.version != wanted:
            there = f"version {model.version}" if model else "no version"
            return ArmsPlan(
                problem=f"experiment {experiment.id} needs version {wanted} as {arm}, {there} is loaded: "
                "the champion's table is served"
            )
    challenger = models.slot(service, TREATMENT).model
    return ArmsPlan(experiment, challenger.scorer if challenger else None)
