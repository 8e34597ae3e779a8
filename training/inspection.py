"""Files of a model from elsewhere are read in a process of its own first: it may die of them, and nobody else does.

`python -m training.inspection FOLDER` is that process. Hashes tell what was read well already.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from fingerpost.environment import python_module
from fingerpost.lake import write_text_atomically
from fingerpost.shown import visible
from fingerpost.training.manifest import DamagedModelError, about_digest, read_about, read_checked
from fingerpost.training.trees.compiled import COMPILED

# Beside the files, what they were when they were read well.
CHECKED = "checked.json"
_TIMEOUT_S = 120.0
_MAX_CPU_S = 60
_MAX_MEMORY = 8 * 2**30
_REFUSED = 3
_ROWS = 64
_KNOWN = 256


def inspect_files(folder: Path) -> None:
    """Reads and compiles a model's files in a process of its own, and notes beside them that they are good.

    Raises:
        SchemaMismatchError: it was made for other features than this program's.
        DamagedModelError: a file is not what was saved, or cannot be read; the message says what became of it.
    """
    (folder / CHECKED).unlink(missing_ok=True)
    # What came along under that name is not believed.
    (folder / COMPILED).unlink(missing_ok=True)
    about = read_about(folder)
    for name, entry in about.files.items():
        read_checked(folder, name, entry)
    _run(folder)
    write_text_atomically(folder / CHECKED, json.dumps(_state(folder)))


def require_inspected(folder: Path) -> None:
    """Makes sure that the files in a folder are those that `inspect_files` read: reading them ends no process.

    Raises:
        DamagedModelError: they are not; whoever fetched them has to fetch them again.
    """
    try:
        noted = json.loads((folder / CHECKED).read_text())
    except (OSError, ValueError) as error:
        raise DamagedModelError(f"the model in {folder} was not inspected, or was found to be damaged") from error
    if noted != _state(folder):
        raise DamagedModelError(f"the model in {folder} is not what was inspected: {_changed(folder, noted)} differs")


def is_inspected(folder: Path) -> bool:
    """Whether `inspect_files` has read the files in a folder, and nobody has found them damaged since."""
    return (folder / CHECKED).exists()


def forget_inspection(folder: Path) -> None:
    """Has the files in a folder fetched again: they are damaged."""
    try:
        (folder / CHECKED).unlink(missing_ok=True)
    except OSError:
        return  # a folder nobody may write into is a part of the program


def inspect_once(folder: Path, home: Path) -> None:
    """As `inspect_files`, unless a model of the same hashes was read well before.

    Args:
        home: `Settings.home`, where the hashes are kept.

    Raises:
        SchemaMismatchError, DamagedModelError: see `inspect_files`.
    """
    known = home / "models" / "inspected" / about_digest(folder)
    if known.exists():
        return
    inspect_files(folder)
    known.parent.mkdir(parents=True, exist_ok=True)
    known.touch()
    for old in sorted(known.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[_KNOWN:]:
        old.unlink(missing_ok=True)


def _state(folder: Path) -> dict[str, str]:
    """Hashes of all that is read where a model is served; those of its trees are in `bundle.json`."""
    try:
        compiled = hashlib.sha256((folder / COMPILED).read_bytes()).hexdigest()
    except OSError as error:
        raise DamagedModelError(f"{COMPILED} in {folder} cannot be read: {error.strerror}") from error
    return {"bundle": about_digest(folder), "compiled": compiled}


def _changed(folder: Path, noted: object) -> str:
    found = _state(folder)
    return ", ".join(name for name in found if not isinstance(noted, dict) or noted.get(name) != found[name])


def _run(folder: Path) -> None:
    command = python_module("fingerpost.training.inspection", str(folder))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise DamagedModelError(f"the model cannot be read within {_TIMEOUT_S:g} s") from error
    if done.returncode == 0:
        return
    said = visible((done.stderr.strip().splitlines() or ["it said nothing"])[-1])[:200]
    if done.returncode == _REFUSED:
        raise DamagedModelError(said)
    raise DamagedModelError(f"the model cannot be read: the process that read it {ended(done.returncode)} ({said})")


def ended(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode >= 0:
        return f"ended with code {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"


def _limit_self() -> None:
    """No more memory and time than a model takes, and no core file of the death that this process is for."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_S, _MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))


def _read_and_compile(folder: Path) -> None:
    import numpy as np

    from fingerpost.features.definition import FEATURES
    from fingerpost.training.bundle import ModelBundle
    from fingerpost.training.trees.compiled import save_trees

    bundle = ModelBundle.load(folder)
    # Checks every node, before LightGBM goes round in circles of them.
    save_trees(folder, bundle.boosters)
    rows = np.random.default_rng(1).lognormal(sigma=3.0, size=(_ROWS, len(FEATURES)))
    rows[: _ROWS // 2, ::3] = np.nan
    for target, boosters in bundle.boosters.items():
        for booster in boosters:
            if booster.num_feature() != len(FEATURES):
                raise DamagedModelError(f"{target} asks for {booster.num_feature()} features, not {len(FEATURES)}")
            if not np.isfinite(booster.predict(rows, num_threads=1)).all():
                raise DamagedModelError(f"{target} predicts what is not a number")


def main() -> None:
    """Exit code 0: the files were read and compiled; 3: they cannot be used, and standard error says why."""
    _limit_self()
    try:
        _read_and_compile(Path(sys.argv[1]))
    except Exception as error:
        print(f"{type(error).__name__}: {error}".splitlines()[0][:300], file=sys.stderr)
        sys.exit(_REFUSED)


if __name__ == "__main__":
    main()
