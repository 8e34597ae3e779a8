"""`fingerpost up`: the whole platform on one machine."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fingerpost.cli.stack.parts import Part
    from fingerpost.routing.hosts import EndpointsKeeper
    from fingerpost.settings import Settings

_NAMES = ("mlflow", "prefect", "engine", "schedule", "router", "envoy")


def register(app: typer.Typer) -> None:
    app.command()(up)


def up(
    hosts: Annotated[
        str | None,
        typer.Option(
            help="Also start Envoy, for the hosts listed here and as they come and go: `engine:`, those that agents "
            "announce; a file with `name=address:port` lines, `dns:NAME:PORT`, `endpointslices:FILE`, or "
            "`kubernetes:SERVICE:PORT`."
        ),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="Envoy's policy, as of `fingerpost envoy config`; not endpoint_picker.")
    ] = "fingerpost",
    health_path: Annotated[
        str | None, typer.Option(help="Path that Envoy asks every host for, such as /healthz, to know who is healthy.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"Start only this part: {', '.join(_NAMES)}.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="Do not start this part.")] = None,
) -> None:
    """Runs MLflow, Prefect, schedules, engine and router, until Ctrl-C. A part that dies or hangs is started again.

    To have Envoy outlive a restart of the rest, run it in a second `up`, with `--only envoy`, and this one
    `--without envoy`.
    """
    from fingerpost.cli.stack.logs import Bounds, Journal
    from fingerpost.cli.stack.parts import platform_parts, settings_environment
    from fingerpost.cli.stack.patience import Upkeep
    from fingerpost.cli.stack.ports import check_ports
    from fingerpost.cli.stack.processes import ProcessGroup
    from fingerpost.cli.stack.supervisor import Supervisor
    from fingerpost.environment import tool_environment
    from fingerpost.errors import FingerpostError
    from fingerpost.home import keep_from_others, make_home, open_to_others
    from fingerpost.settings import get_settings

    unknown = sorted({*(only or []), *(without or [])} - set(_NAMES))
    if unknown:
        raise FingerpostError(f"no part {unknown[0]!r}: use {', '.join(_NAMES)}")
    settings = get_settings()
    keep_from_others()
    make_home(settings.home)
    wanted = [name for name in only or _NAMES if name not in (without or [])]
    keeper = _keeper(settings, hosts) if hosts and "envoy" in wanted else None
    envoy = _envoy(settings, keeper, policy, health_path) if keeper else None
    parts = [part for part in platform_parts(settings, envoy) if part.name in wanted]
    if not parts:
        raise FingerpostError("nothing is left to start; Envoy needs --hosts")
    names = [part.name for part in parts]
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    bounds = Bounds(round(settings.part_log_mb * 2**20), settings.log_files)
    tell = Journal(logs / "up.log", bounds)

    def overview() -> None:
        for part in parts:
            tell(f"  {part.name:9} {part.address or '-':28} {part.what}; log {logs / part.name}.log")
            if part.secret_file:
                tell(f"  {'':9} it asks for a credential, which is in {part.secret_file}")
        tell("Ctrl-C stops everything; `fingerpost status` tells how everything is.")

    upkeep = Upkeep(
        settings.home,
        settings.disk_low_mb,
        Bounds(round(settings.access_log_mb * 2**20), settings.log_files),
        _FirstModel(settings, tell).check if "engine" in names else lambda: None,
    )
    stack = ProcessGroup(logs, {**settings_environment(settings), **tool_environment(settings)}, bounds)
    with _alone(settings, parts):
        if left := stack.end_left_over(names):
            tell(f"ended {left} processes that an earlier `fingerpost up` had left behind")
        check_ports([use for part in parts for use in part.ports])
        if warning := open_to_others(settings.home):
            tell(warning)
        tell(f"starting {', '.join(names)}; logs are in {logs}")
        supervisor = Supervisor(stack, parts, tell, upkeep=upkeep)
        stopped = threading.Event()
        try:
            with stack:
                if keeper:
                    threading.Thread(target=keeper.follow, args=(stopped,), name="hosts", daemon=True).start()
                stack.catch_signals()
                supervisor.run(overview)
                tell("stopping ...")
        finally:
            stopped.set()
            supervisor.close()


class _FirstModel:
    """Says once that there is no model yet, as soon as the registry has told so."""

    def __init__(self, settings: "Settings", tell: Callable[[str], None]) -> None:
        self._settings, self._tell = settings, tell
        self._done = False

    def check(self) -> None:
        from fingerpost.serving.model_files import ModelFiles

        if self._done:
            return
        settings = self._settings
        found = ModelFiles(settings.home).read_aliases(settings.service)
        self._done = found.known
        if found.known and found.champion is None:
            self._tell(
                "no model yet, the baseline predicts: a first one is trained as soon as enough is measured "
                f"(FINGERPOST_FIRST_TRAINING_ROWS={settings.first_training_rows}), else by the schedule "
                f"(FINGERPOST_TRAIN_CRON={settings.train_cron!r}, UTC), or now by `fingerpost run pipeline`"
            )


@contextlib.contextmanager
def _alone(settings: "Settings", parts: Sequence["Part"]) -> Iterator[None]:
    """Makes sure that no other `fingerpost up` runs one of the parts in this home."""
    from fingerpost.cli.stack.state import lock_path
    from fingerpost.locks import sole

    about = ", ".join(f"{use.what} on port {use.port}" for part in parts for use in part.ports)
    with contextlib.ExitStack() as held:
        for part in parts:
            what = f"`fingerpost up` runs {part.name} in {settings.home}"
            cure = "stop that one first, or set FINGERPOST_HOME to another folder"
            held.enter_context(sole(lock_path(settings.home, part.name), what, about, cure))
        yield


def _keeper(settings: "Settings", hosts: str) -> "EndpointsKeeper":
    """Keeps Envoy's endpoints; lists and names are read once already.

    Raises:
        FingerpostError: there are none, or they cannot be read.
    """
    from fingerpost.engine_api import EngineClient
    from fingerpost.errors import FingerpostError
    from fingerpost.routing.engine_hosts import ENGINE, host_sources
    from fingerpost.routing.hosts import EndpointsKeeper

    client = EngineClient(settings.own_engine, settings.token_to_send, 3.0, settings.engine_tls)
    source, _ = host_sources(hosts, client, settings.service)
    keeper = EndpointsKeeper(source, settings.home / "routing" / f"{settings.service}.endpoints.json")
    if hosts == ENGINE:
        # The engine is yet to start.
        keeper.prepare()
        return keeper
    keeper.update()
    if keeper.problem:
        raise FingerpostError(f"--hosts {hosts}: {keeper.problem}")
    return keeper


def _envoy(settings: "Settings", keeper: "EndpointsKeeper", policy: str, health_path: str | None) -> "Part":
    """Writes Envoy's configuration for the hosts, and builds the picker if need be."""
    import json

    from fingerpost.cli.stack.parts import access_log_path, envoy_part
    from fingerpost.errors import FingerpostError
    from fingerpost.lake import write_text_atomically
    from fingerpost.routing.envoy.config import envoy_config
    from fingerpost.routing.envoy.module import build_module

    if policy == "endpoint_picker":
        raise FingerpostError(
            "--policy endpoint_picker: `up` starts no endpoint picker; use `fingerpost envoy config` (docs/routing.md)"
        )
    try:
        made = envoy_config(
            keeper.hosts,
            access_log_path(settings),
            settings.bind_host,
            settings.envoy_port,
            settings.envoy_admin_port,
            policy,
            False,
            settings.home / "routing" / f"{settings.service}.table",
            health_path,
            panic_percent=settings.panic_percent,
            max_connections=settings.envoy_max_connections,
            admin_socket=settings.envoy_admin_socket,
            endpoints=keeper.path,
        )
    except ValueError as error:
        raise FingerpostError(str(error)) from error
    # What an earlier version has left readable for all.
    with contextlib.suppress(OSError):
        access_log_path(settings).chmod(0o640)
    config = settings.home / "envoy.json"
    write_text_atomically(config, json.dumps(made, indent=1) + "\n")
    return envoy_part(settings, config, build_module())
