"""Databases that MLflow and Prefect make in ten seconds of CPU: made once in a run of the tests, and copied."""

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

from fingerpost.locks import locked

_PREFECT = Path("prefect") / "prefect.db"


def shared_folder() -> Path:
    """A folder of this run of the tests, which all of its workers see."""
    run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    return Path(tempfile.gettempdir()) / f"fingerpost-tests-{run}"


def remove_shared_folder() -> None:
    """To be called at the end, by the process that all workers are children of."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(shared_folder(), ignore_errors=True)


def empty_registry() -> Path:
    """A registry's database with its tables, which two processes cannot safely make at once."""
    made = shared_folder() / "mlflow.db"
    with locked(shared_folder() / "mlflow.lock", 120):
        if not made.exists():
            import mlflow

            draft = made.with_suffix(".draft")
            mlflow.MlflowClient(f"sqlite:///{draft}").search_experiments()
            draft.rename(made)
    return made


def lend_databases(home: Path) -> None:
    """Gives a new home an empty registry, and Prefect's database if one was kept before."""
    if not (home / "mlflow.db").exists():
        shutil.copy(empty_registry(), home / "mlflow.db")
    lend_prefect(home)


def lend_prefect(home: Path) -> None:
    """Gives a new home Prefect's database, if one was kept before."""
    kept = shared_folder() / _PREFECT.name
    if kept.exists() and not (home / _PREFECT).exists():
        for folder in (home, home / "prefect"):
            folder.mkdir(exist_ok=True, mode=0o700)
        shutil.copy(kept, home / _PREFECT)


def keep_prefect(home: Path) -> None:
    """Keeps the database of a server that has just started, for homes that come later."""
    kept = shared_folder() / _PREFECT.name
    with locked(shared_folder() / "prefect.lock", 120):
        if kept.exists():
            return
        draft = kept.with_suffix(".draft")
        with sqlite3.connect(home / _PREFECT) as source, sqlite3.connect(draft) as copy:
            source.backup(copy)
        draft.rename(kept)
