"""What `fingerpost doctor` looks at: each check is a function of what was found, and says what to do."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

OK, WARNING, ERROR = "ok", "warning", "error"
# The header has whole seconds.
_DATE_STEP_S = 1.0
_MAX_NAMED = 5
# Of so many lines fewer than this part are read: the format is another one.
_MIN_READ = 0.9
# Windows after which a proxy's agent should have reported one, while its log is written.
_MAX_SILENT_WINDOWS = 6


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        level: `ok`, `warning`: something is worse than it need be, `error`: something does not work.
        about: what it is about, a word or two.
        found: what was found.
        cure: what to do; empty where all is well.
    """

    level: str
    about: str
    found: str
    cure: str = ""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def check_roles(absent: Mapping[str, Sequence[str]]) -> Check:
    """Which roles are installed.

    Args:
        absent: by role, the distributions that are not there.
    """
    installed = [role for role, missing in absent.items() if not missing]
    if installed:
        return Check(OK, "roles", f"installed: {', '.join(installed)}")
    return Check(
        WARNING, "roles", "only the middleware is installed", "pip install 'fingerpost[agent]', or another role"
    )


def check_home(home: Path, writable: bool, open_to_others: str | None, disk_problem: str) -> list[Check]:
    """The folder of local state.

    Args:
        open_to_others: of `fingerpost.home.open_to_others`.
        disk_problem: of `Disk.problem`.
    """
    if not writable:
        return [Check(ERROR, "home", f"{home} cannot be written", "let this user write it, or set FINGERPOST_HOME")]
    checks = [Check(OK, "home", f"{home.absolute()} can be written")]
    if not home.is_absolute():
        told = f"{home} is another folder wherever a command is started"
        checks.append(Check(WARNING, "home", told, "set FINGERPOST_HOME to an absolute path"))
    if open_to_others:
        checks.append(Check(WARNING, "home", open_to_others.partition(": ")[0], open_to_others.partition(": ")[2]))
    if disk_problem:
        checks.append(Check(ERROR, "disk", disk_problem, "make room, or move FINGERPOST_HOME"))
    return checks


def check_clock(date_header: str | None, began_s: float, ended_s: float, skew_s: float) -> Check:
    """This machine's clock beside the engine's, by the time in its answer.

    Args:
        date_header: `Date` of an answer.
        began_s, ended_s: when it was asked and answered, seconds since 1970.
        skew_s: what the engine takes.
    """
    try:
        theirs = parsedate_to_datetime(date_header or "").timestamp()
    except (TypeError, ValueError):
        return Check(WARNING, "clock", "the engine does not say its time", "is there a proxy that removes Date?")
    ahead = max(began_s - (theirs + _DATE_STEP_S), 0.0) or min(ended_s - theirs, 0.0)
    if abs(ahead) > skew_s:
        way = "ahead of" if ahead > 0 else "behind"
        return Check(
            ERROR,
            "clock",
            f"this machine's clock is {abs(ahead):.0f} s {way} the engine's, more than {skew_s:g} s",
            "set both by NTP: telemetry of another time is refused",
        )
    return Check(OK, "clock", f"within {max(abs(ahead), _DATE_STEP_S):.0f} s of the engine's")


def check_engine(url: str, status: int | None, problem: str, token_set: bool) -> Check:
    """Whether the engine answers, and takes the token.

    Args:
        status: of `/v1/health`; None: it did not answer.
        problem: why, or what it says of itself.
    """
    if status is None:
        return Check(ERROR, "engine", f"{url} does not answer: {problem}", "start it, or set FINGERPOST_ENGINE_URL")
    if status in (401, 403):
        cure = (
            "the token is not one of the engine's, or of another role" if token_set else "set FINGERPOST_ENGINE_TOKEN"
        )
        return Check(ERROR, "engine", f"{url} refuses this caller ({status}): {problem}", cure)
    if status != 200:
        return Check(ERROR, "engine", f"{url} answers {status}: {problem}", "look into its log")
    return Check(OK, "engine", f"{url} answers")


def check_engine_problems(problems: dict[str, str]) -> list[Check]:
    """What the engine says is wrong with it."""
    return [Check(WARNING, f"engine: {name}", text, "docs/operations.md") for name, text in problems.items()]


def check_names(table: Iterable[str], other: Iterable[str], where: str) -> list[Check]:
    """Whether the hosts of a table are those that somebody else names.

    Args:
        other: names in `where`, such as the endpoints of Envoy.
    """
    known, named = set(table), set(other)
    if not named:
        return []
    checks = []
    if named - known:
        told = f"{_some(named - known)} in {where} is not in the engine's table"
        cure = "start an agent there with this name (--host), or one beside the proxy (--proxy); or rename the endpoint"
        checks.append(Check(WARNING if named & known else ERROR, "names", told, cure))
    if known - named:
        told = f"{_some(known - named)} in the engine's table is not in {where}"
        checks.append(Check(WARNING, "names", told, "the host left, or one of the two names is misspelt"))
    return checks or [Check(OK, "names", f"{len(known)} hosts are called the same in table and {where}")]


def check_table(path: Path, expires_us: int | None, version: str, refused: str, now_us: int) -> Check:
    """The picker's file.

    Args:
        expires_us: None: there is no file.
        refused: why it is no table; empty: it is one.
    """
    if refused:
        return Check(ERROR, "table", f"{path} is no table: {refused}", "let `fingerpost router` write it again")
    if expires_us is None:
        cure = "start `fingerpost router`; until then requests go by least request"
        return Check(WARNING, "table", f"there is none at {path}", cure)
    late_s = (now_us - expires_us) / 1e6
    if late_s > 0:
        told = f"{path} expired {late_s:.0f} s ago: requests go by least request"
        return Check(ERROR, "table", told, "is `fingerpost router` running, and does the engine answer?")
    return Check(OK, "table", f"{path} is valid for {-late_s:.0f} s, version {version}")


def check_log(path: Path, lines: int | None, read: int, reason: str, age_s: float) -> Check:
    """The proxy's access log.

    Args:
        lines: looked at, from its end; None: it cannot be read.
        read: of them became records.
        reason: the commonest refusal.
        age_s: since it was last written.
    """
    if lines is None:
        return Check(ERROR, "access log", f"{path} cannot be read: {reason}", "let this user's group read it")
    if not lines:
        return Check(WARNING, "access log", f"{path} is empty", "has any request come?")
    if read < _MIN_READ * lines:
        told = f"{lines - read} of the last {lines} lines of {path} are refused, most for {reason}"
        return Check(ERROR, "access log", told, "take the format of `fingerpost envoy snippet`")
    return Check(OK, "access log", f"{path}: the last {lines} lines are read; written {age_s:.0f} s ago")


def check_proxy_agent(proxy: str, pid: int | None, silent_s: float | None, log_age_s: float, window_s: float) -> Check:
    """The agent beside a proxy on this machine.

    Args:
        pid: of its process; None: none runs in this home.
        silent_s: since the end of the last window that it reported; None: it has reported none.
        log_age_s: since the proxy's log was last written.
        window_s: length of a window.
    """
    about = "proxy agent"
    if pid is None:
        told = f"no agent of proxy {proxy} runs in this home"
        cure = (
            f"start `fingerpost agent --proxy {proxy} --access-log FILE`, with the FINGERPOST_HOME that it is to have"
        )
        return Check(ERROR, about, told, cure)
    most_s = _MAX_SILENT_WINDOWS * window_s
    if log_age_s < most_s and (silent_s is None or silent_s > most_s):
        since = "no window yet" if silent_s is None else f"no window for {silent_s:.0f} s"
        told = f"the agent of proxy {proxy} (pid {pid}) has reported {since}, though the log is written"
        return Check(ERROR, about, told, "its log says why; does it follow this file?")
    return Check(OK, about, f"the agent of proxy {proxy} runs (pid {pid})")


def check_ports(taken: Sequence[str], ours: bool) -> Check:
    """The ports of the platform on this machine.

    Args:
        taken: what is wrong with each that cannot be bound.
        ours: a platform runs in this home, whose ports they are.
    """
    if ours:
        return Check(OK, "ports", "a platform runs in this home")
    if taken:
        return Check(WARNING, "ports", taken[0], "stop what has it, or move the port; only `fingerpost up` needs them")
    return Check(OK, "ports", "all that `fingerpost up` needs are free")


def check_picker(compiler: bool, built: bool, envoy_version: str | None, tested: str) -> list[Check]:
    """The native picker and the Envoy on this machine.

    Args:
        envoy_version: None: there is none on the path.
        tested: version that the module was built and tested for, `MAJOR.MINOR`.
    """
    checks = []
    if not built and not compiler:
        cure = "install gcc or clang, or pip install 'fingerpost[compiler]'"
        checks.append(Check(WARNING, "picker", "the module is not built and there is no compiler", cure))
    else:
        checks.append(Check(OK, "picker", "the module is built" if built else "the module can be built"))
    if envoy_version and not envoy_version.startswith(f"{tested}."):
        cure = f"run Envoy {tested}, or see docs/routing.md"
        checks.append(Check(ERROR, "envoy", f"version {envoy_version} refuses the picker, made for {tested}", cure))
    elif envoy_version:
        checks.append(Check(OK, "envoy", f"version {envoy_version}"))
    return checks


def names_of_endpoints(response: Any) -> Set[str]:
    """Hosts' names in the file that Envoy reads its endpoints from; none where it is another thing."""
    try:
        groups = [group for each in response["resources"] for group in each["endpoints"]]
        entries = [entry for group in groups for entry in group["lb_endpoints"]]
        return {str(each["metadata"]["filter_metadata"]["fingerpost"]["host"]) for each in entries}
    except (KeyError, TypeError):
        return set()


def _some(names: Set[str]) -> str:
    few = sorted(names)[:_MAX_NAMED]
    rest = len(names) - len(few)
    return ", ".join(few) + (f" and {rest} more" if rest else "")


def worst(checks: Iterable[Check]) -> str:
    """The worst level among some checks."""
    levels = {each.level for each in checks}
    return ERROR if ERROR in levels else WARNING if WARNING in levels else OK
