"""Keeps the folder of all local state: closed to other users, with Prefect's credential and enough free disk."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from fingerpost.errors import FingerpostError
from fingerpost.locks import locked
from fingerpost.settings import Settings

_OTHERS = 0o077
_USER = "fingerpost"
_RANDOM_BYTES = 32
_MIN_INODES = 1000


def make_home(home: Path) -> None:
    """Makes the folder if it is not there, closed to other users of the machine; one that is there stays as it is."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)


def keep_from_others() -> None:
    """From now on what this process makes can be read by its owner, and as before by its group, but by nobody else."""
    os.umask(os.umask(0o077) | 0o007)


def open_to_others(home: Path) -> str | None:
    """What to do about a home that other users of the machine can enter; None: they cannot."""
    if home.stat().st_mode & 0o007:
        return f"other users of this machine can read {home}: chmod 700 {home}"
    return None


def prefect_credential(settings: Settings) -> str:
    """`user:password` that Prefect is asked with; empty: it is elsewhere, and the settings name none.

    Raises:
        FingerpostError: as of `own_prefect_credential`.
    """
    return settings.prefect_auth if settings.prefect_url else own_prefect_credential(settings)


def own_prefect_credential(settings: Settings) -> str:
    """`user:password` of the Prefect server on this machine: the settings', or a random one kept in the home.

    Raises:
        FingerpostError: the file can be read by others, or holds no credential.
    """
    if settings.prefect_auth and not settings.prefect_url:
        return settings.prefect_auth
    path = settings.prefect_credential_file
    if not path.exists():
        make_home(settings.home)
        with locked(settings.home / "locks" / "prefect-credential.lock"):
            if not path.exists():
                _write_private(path, f"{_USER}:{secrets.token_urlsafe(_RANDOM_BYTES)}")
    if path.stat().st_mode & _OTHERS:
        raise FingerpostError(f"{path} can be read by others: remove it and start again, which makes a new credential")
    found = path.read_text(encoding="utf-8").strip()
    user, separator, password = found.partition(":")
    if not (user and separator and password):
        raise FingerpostError(f"{path} holds no `user:password`: remove it and start again, which makes a new one")
    return found


def _write_private(path: Path, text: str) -> None:
    """Writes a file that never was readable by others, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Disk:
    """Room on the disk of a folder, for users other than root; `free_inodes` None: the file system has no limit."""

    free_bytes: int
    free_inodes: int | None

    def problem(self, low_mb: float) -> str:
        """What is wrong with so little room, in words; empty if it is enough.

        Args:
            low_mb: megabytes (2^20) below which it is too little.
        """
        if self.free_bytes < low_mb * 2**20:
            return f"{self.free_bytes / 2**20:.0f} MB left on the disk, less than FINGERPOST_DISK_LOW_MB={low_mb:g}"
        if self.free_inodes is not None and self.free_inodes < _MIN_INODES:
            return f"only {self.free_inodes} files can be made on the disk (inodes)"
        return ""


def disk_of(folder: Path) -> Disk:
    """The room where a folder is.

    Raises:
        OSError: it cannot be looked at.
    """
    found = os.statvfs(folder)
    return Disk(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)
