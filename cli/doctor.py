"""`fingerpost doctor`."""

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fingerpost.cli.options import EngineUrl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fingerpost.cli.stack.checkup import Check
    from fingerpost.settings import Settings
    from fingerpost.tokens import Token

_ROLES = ("agent", "router", "gateway", "engine", "platform")
_TAIL_BYTES, _TAIL_LINES = 2**18, 200


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    engine: EngineUrl = None,
    access_log: Annotated[
        Path | None, typer.Option(help="The proxy's access log; default FINGERPOST_HOME/access.log, if there is one.")
    ] = None,
    log_format: Annotated[str, typer.Option(help="Of the access log: envoy, combined or haproxy.")] = "envoy",
    proxy: Annotated[
        str | None, typer.Option(help="Name of the proxy whose agent (`agent --proxy`) is to run on this machine.")
    ] = None,
    endpoints: Annotated[
        Path | None,
        typer.Option(help="The file of Envoy's endpoints; default FINGERPOST_HOME/routing/SERVICE.endpoints.json."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="The checks as JSON.")] = False,
) -> None:
    """Looks for what commonly goes wrong on this machine, and says what to do; exit code 1 if something does not work.

    Changes nothing. It checks the roles installed, settings, home, disk, ports, the engine and the clocks, the picker
    and its table, the access log, the proxy's agent, and whether all call the hosts the same.
    """
    import json

    from fingerpost.accesslog.formats import LOG_FORMATS
    from fingerpost.cli.stack.checkup import ERROR, worst
    from fingerpost.errors import FingerpostError
    from fingerpost.settings import get_settings

    settings = get_settings()
    if log_format not in LOG_FORMATS:
        raise FingerpostError(f"--log-format {log_format!r} is not one of {', '.join(LOG_FORMATS)}")
    url = (engine or settings.engine_url or settings.own_engine).rstrip("/")
    routing = settings.home / "routing"
    log = access_log or _if_there(settings.home / "access.log")
    kept = endpoints or _if_there(routing / f"{settings.service}.endpoints.json")
    hosts, checks = _of_engine(settings, url)
    checks = [
        *_of_machine(settings),
        *checks,
        *_of_table(routing / f"{settings.service}.table", kept is not None or log is not None),
        *(_of_log(log, log_format, settings.service, hosts) if log else []),
        *([_of_proxy_agent(settings, proxy, log)] if proxy else []),
        *(_of_endpoints(kept, hosts) if kept else []),
    ]
    level = worst(checks)
    if json_output:
        typer.echo(json.dumps({"worst": level, "checks": [each.as_dict() for each in checks]}, indent=2))
    else:
        for each in checks:
            typer.echo(f"{each.level:8}{each.about}: {each.found}{f'; {each.cure}' if each.cure else ''}")
    if level == ERROR:
        raise typer.Exit(1)


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def _of_machine(settings: "Settings") -> "list[Check]":
    import os

    from fingerpost.cli.stack import checkup
    from fingerpost.home import disk_of, open_to_others
    from fingerpost.roles import absent

    home = settings.home
    there = next(each for each in (home, *home.absolute().parents) if each.exists())
    disk = disk_of(there).problem(settings.disk_low_mb)
    missing = {role: absent(role) for role in _ROLES}
    checks = [
        checkup.check_roles(missing),
        *checkup.check_home(
            home, os.access(there, os.W_OK | os.X_OK), open_to_others(home) if home.exists() else None, disk
        ),
    ]
    if not missing["router"]:
        checks += _of_picker()
    if not missing["platform"]:
        checks.append(_of_ports(settings))
    return checks


def _of_picker() -> "list[Check]":
    from fingerpost.cli.stack.checkup import check_picker
    from fingerpost.routing.envoy.module import TESTED_ENVOY, compiler, envoy_version, module_path

    return check_picker(compiler() is not None, module_path().exists(), envoy_version(), TESTED_ENVOY)


def _of_ports(settings: "Settings") -> "Check":
    from fingerpost.cli.stack.checkup import check_ports
    from fingerpost.cli.stack.parts import platform_parts
    from fingerpost.cli.stack.ports import check_ports as bind
    from fingerpost.cli.stack.state import read_states
    from fingerpost.errors import PortInUseError

    try:
        bind([use for part in platform_parts(settings) for use in part.ports])
        taken = ""
    except PortInUseError as error:
        taken = str(error)
    return check_ports([taken] if taken else [], bool(read_states(settings.home)))


def _of_engine(settings: "Settings", url: str) -> "tuple[list[str], list[Check]]":
    """The hosts that the engine knows of the service, and what is to say of it."""
    import json

    from fingerpost.cli.stack import checkup
    from fingerpost.engine_api import get_call

    began_s = time.time()
    status, headers, body = _ask(url, get_call("/v1/health").path, settings.token_to_send)
    ended_s = time.time()
    reason = body.decode("utf-8", "replace")[:200]
    checks = [checkup.check_engine(url, status, reason, bool(settings.token_to_send))]
    if checks[0].level != checkup.OK:
        return [], checks
    checks.append(checkup.check_clock(headers.get("date"), began_s, ended_s, settings.clock_skew_s))
    hosts: list[str] = []
    try:
        checks += checkup.check_engine_problems(json.loads(body)["problems"])
        path = get_call("/v1/hosts", service=settings.service).path
        hosts = [str(each["host"]) for each in json.loads(_ask(url, path, settings.token_to_send)[2])["hosts"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = f"{url} does not answer as an engine does: {error!r}"
        checks.append(checkup.Check(checkup.ERROR, "engine", told, "is it another server?"))
    return hosts, checks


def _ask(url: str, path: str, token: "Token") -> "tuple[int | None, Mapping[str, str], bytes]":
    """Status, headers and body of a question; status None and the reason, if there is no answer."""
    from http.client import HTTPException

    from fingerpost.agent.sender import Target, ask
    from fingerpost.engine_api import Call
    from fingerpost.errors import FingerpostError
    from fingerpost.settings import get_settings

    try:
        answer = ask(Target(url, token, get_settings().engine_tls), Call("GET", path))
    except (OSError, HTTPException, ValueError, FingerpostError) as error:
        return None, {}, str(error).encode()
    return answer.status, answer.headers, answer.body


def _of_table(path: Path, routes: bool) -> "list[Check]":
    from fingerpost.cli.stack.checkup import check_table
    from fingerpost.clock import clock_us
    from fingerpost.errors import RefusedError
    from fingerpost.roles import absent

    if absent("router") or not (routes or path.exists()):
        return []
    from fingerpost.routing.table_watch import TableWatch

    try:
        table = TableWatch(path).newer()
    except RefusedError as error:
        return [check_table(path, None, "", str(error), clock_us())]
    expires_us, version = (table.expires_us, table.version) if table else (None, "")
    return [check_table(path, expires_us, version, "", clock_us())]


def _of_proxy_agent(settings: "Settings", proxy: str, log: Path | None) -> "Check":
    import json
    import math

    from fingerpost.agent.options import AgentOptions
    from fingerpost.cli.stack.checkup import check_proxy_agent
    from fingerpost.clock import US
    from fingerpost.locks import holder

    options = AgentOptions(settings.lake, settings.service, proxy, proxy=True)
    owner = holder(options.state / f"{options.state_name}.lock")
    try:
        closed_us = json.loads((options.state / f"{options.state_name}.json").read_text()).get("closed_us", 0)
    except (OSError, ValueError, AttributeError):
        closed_us = 0
    now_s = time.time()
    silent_s = now_s - closed_us / US if closed_us else None
    log_age_s = now_s - log.stat().st_mtime if log and log.exists() else math.inf
    return check_proxy_agent(proxy, owner.pid if owner else None, silent_s, log_age_s, settings.window_s)


def _of_log(path: Path, log_format: str, service: str, hosts: list[str]) -> "list[Check]":
    from fingerpost.accesslog.formats import LOG_FORMATS
    from fingerpost.cli.stack.checkup import check_log, check_names
    from fingerpost.clock import clock_us
    from fingerpost.errors import RefusedError
    from fingerpost.records import REQUEST_RECORD, refusal

    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).splitlines()[-_TAIL_LINES:]
        written_s = path.stat().st_mtime
    except OSError as error:
        return [check_log(path, None, 0, error.strerror or str(error), 0.0)]
    names: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for line in lines:
        try:
            row: dict[str, Any] = LOG_FORMATS[log_format].parse(line, service, None)
            reason = refusal(row, REQUEST_RECORD, 0, clock_us() + 10**9)
        except RefusedError as error:
            row, reason = {}, str(error)
        if reason:
            reasons[reason] += 1
        else:
            names[row["host"]] += 1
    read = names.total()
    most = reasons.most_common(1)[0][0] if reasons else ""
    checks = [check_log(path, len(lines), read, most, time.time() - written_s)]
    return checks + (check_names(hosts, names, str(path)) if hosts else [])


def _of_endpoints(path: Path, hosts: list[str]) -> "list[Check]":
    import json

    from fingerpost.cli.stack.checkup import ERROR, Check, check_names, names_of_endpoints

    try:
        names = names_of_endpoints(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        return [Check(ERROR, "endpoints", f"{path} cannot be read: {error}", "let `fingerpost router` write it")]
    return check_names(hosts, names, str(path)) if hosts else []
