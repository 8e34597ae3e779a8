"""The promotion policy: a TOML file that says which gates a challenger must pass, and when nothing is promoted."""

import hashlib
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fingerpost.errors import FingerpostError
from fingerpost.experiment import MAX_CHALLENGERS

Use = Literal["required", "optional", "off"]
# While a new version routes: before its promotion, and after.
Stage = Literal["experiment", "watch"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _minutes(text: str) -> int:
    """Minutes since midnight of `HH:MM`, 24:00 included."""
    hours, _, minutes = text.partition(":")
    if len(text) == 5 and hours.isdecimal() and minutes.isdecimal():
        found = int(hours) * 60 + int(minutes)
        if int(minutes) < 60 and found <= 24 * 60:
            return found
    raise ValueError("must be HH:MM, 00:00 to 24:00")


def _time_of_day(text: str) -> str:
    _minutes(text)
    return text


TimeOfDay = Annotated[str, AfterValidator(_time_of_day)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class OfflineGate(_Section):
    """Skill and choices on held-out windows, from the training run."""

    use: Use = "required"
    min_rows: int = Field(100, ge=0)
    min_mean_skill: float = Field(0.0, le=1)
    min_skill: float = Field(-0.25, le=1)
    max_excess: float = Field(0.0, ge=-1, le=1)


class ComparisonGate(_Section):
    """A comparison of challenger and champion that ends in a verdict."""

    use: Use = "optional"
    min_samples: int = Field(100, ge=0)
    accept: list[Literal["better", "not worse", "no difference"]] = Field(["better"], min_length=1)
    max_age_h: float = Field(48.0, gt=0)


class RampStep(_Section):
    """What a new version is given at first: pairs of short slots, the challenger's one in so many."""

    pairs: int = Field(ge=1, le=1000)
    one_in: int = Field(ge=2, le=1000)
    slot_s: float = Field(ge=1, le=3600)


class ExperimentGate(ComparisonGate):
    """The experiment; for *not worse* to count, its regret of the shadow must not be higher than the champion's."""

    use: Use = "required"
    min_samples: int = Field(10, ge=0)
    accept: list[Literal["better", "not worse", "no difference"]] = Field(["better", "not worse"], min_length=1)
    max_age_h: float = Field(168.0, gt=0)
    regret: Use = "required"
    max_regret_rise: float = Field(0.0, ge=0, le=1)
    challengers: int = Field(1, ge=1, le=MAX_CHALLENGERS)
    steps: list[RampStep] = Field(
        [
            RampStep(pairs=2, one_in=20, slot_s=10),
            RampStep(pairs=2, one_in=10, slot_s=10),
            RampStep(pairs=4, one_in=5, slot_s=10),
        ],
        max_length=10,
    )


class StateGate(_Section):
    """Something that holds or not at a time: drift, data tests."""

    use: Use = "required"
    max_age_h: float = Field(6.0, gt=0)


class ApprovalGate(_Section):
    """A person's approval of the version, by `fingerpost approve`."""

    use: Literal["required", "off"] = "off"
    max_age_h: float = Field(168.0, gt=0)


def _http_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return url


class Veto(_Section):
    """A webhook that is asked before a promotion, and may refuse it; if `during` says so it may end more than that."""

    url: Annotated[str, AfterValidator(lambda url: url and _http_url(url))] = ""
    during: list[Stage] = []


class UserGuardrail(_Section):
    """A query of Prometheus whose values must not be beyond a bound while a challenger routes, or is watched."""

    name: str = Field(min_length=1, max_length=100)
    url: Annotated[str, AfterValidator(_http_url)]
    query: str = Field(min_length=1, max_length=4000)
    bound: float
    bad: Literal["above", "below"] = "above"


class FreezeWindow(_Section):
    """Days and hours at which nothing is promoted; where `to` is not after `from`, it ends on the next day."""

    days: list[Day] = Field(list(_DAYS), min_length=1)
    begin: TimeOfDay = Field("00:00", alias="from")
    end: TimeOfDay = Field("24:00", alias="to")
    why: str = ""

    def holds(self, moment: datetime) -> bool:
        """Whether a moment, in the policy's time zone, lies in it."""
        begin, end, now = _minutes(self.begin), _minutes(self.end), moment.hour * 60 + moment.minute
        today = _DAYS[moment.weekday()] in self.days
        if begin < end:
            return today and begin <= now < end
        yesterday = _DAYS[moment.weekday() - 1] in self.days
        return (today and now >= begin) or (yesterday and now < end)


class Freeze(_Section):
    """All freeze windows, and the time zone they are told in."""

    timezone: str = "UTC"
    windows: list[FreezeWindow] = []

    @model_validator(mode="after")
    def _zone_exists(self) -> "Freeze":
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {self.timezone!r}") from error
        return self

    def reason(self, moment: datetime) -> str | None:
        """Why nothing is promoted at a moment, or None."""
        local = moment.astimezone(ZoneInfo(self.timezone))
        for window in self.windows:
            if window.holds(local):
                why = f": {window.why}" if window.why else ""
                return f"freeze window {','.join(window.days)} {window.begin}-{window.end} {self.timezone}{why}"
        return None


class Policy(_Section):
    """The whole policy; what a file leaves out is as in the shipped one."""

    offline: OfflineGate = OfflineGate()
    shadow: ComparisonGate = ComparisonGate(accept=["better", "no difference"])
    offpolicy: ComparisonGate = ComparisonGate(min_samples=200, accept=["better", "no difference"])
    experiment: ExperimentGate = ExperimentGate()
    drift: StateGate = StateGate()
    data: StateGate = StateGate()
    freeze: Freeze = Freeze()
    approval: ApprovalGate = ApprovalGate()
    veto: Veto = Veto()
    guardrails: list[UserGuardrail] = Field([], max_length=20)


@dataclass(frozen=True)
class PolicyFile:
    """A policy with the text it was read from, which goes into every record."""

    policy: Policy
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def parse_policy(text: str, name: str = "promotion policy") -> PolicyFile:
    """The policy that a TOML text says.

    Raises:
        FingerpostError: it is not TOML, or a key or value is none of a policy; the message names each.
    """
    try:
        return PolicyFile(Policy.model_validate(tomllib.loads(text)), text)
    except tomllib.TOMLDecodeError as error:
        raise FingerpostError(f"{name} is not TOML: {error}") from error
    except ValidationError as error:
        raise FingerpostError(f"{name} refused: {'; '.join(map(_problem, error.errors()))}") from error


def load_policy(path: Path | None) -> PolicyFile:
    """The policy of a file; None: the shipped one.

    Raises:
        FingerpostError: it is not a policy; the message says why.
    """
    path = path or Path(__file__).parent / "policy.toml"
    try:
        return parse_policy(path.read_text(encoding="utf-8"), f"promotion policy {path}")
    except UnicodeDecodeError as error:
        raise FingerpostError(f"promotion policy {path} is not UTF-8 text") from error


def _problem(problem: Any) -> str:
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}"
    return f"{where} = {problem['input']!r}: {problem['msg']}"[:300]
