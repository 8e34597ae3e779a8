"""Keeps the lake in object storage: engines send there what lands, the platform works on a copy in its own folder.

Files of the lake are written whole, and replaced but never changed, so that an object is a file. The folder stays what
features and training read, at the speed of a disk.
"""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from fingerpost.errors import FingerpostError
from fingerpost.flow_status import KIND as STATUS
from fingerpost.flow_status import MAX_BYTES as MAX_STATUS_BYTES
from fingerpost.lake import (
    INBOX,
    LIVE_ERRORS,
    PREDICTIONS,
    QUARANTINE,
    TAKEN,
    batch_name,
    parquet_files,
    service_folder,
    take_batch,
    write_bytes_atomically,
)
from fingerpost.names import is_name
from fingerpost.settings import Settings

# What engines write and the platform reads.
_SENT = (INBOX, PREDICTIONS, LIVE_ERRORS)
# What the platform writes and engines read: the categories of all services, the last fingerprints of each, and how
# flows went (`STATUS`).
_CATEGORIES, _FINGERPRINTS = "categories", "fingerprints/service={}/latest.parquet"
# Stays on the machine: what waits, what was refused, and what agents beside it remember.
_LOCAL = (INBOX, QUARANTINE, "agents")
_MANIFESTS = ".objects"
_AT_A_TIME = 8
_MAX_BYTES = 2**30
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def object_lake(settings: Settings) -> "ObjectLake | None":
    """The object storage of the settings; None: the folder is all there is.

    Raises:
        FingerpostError: as of `ObjectLake`.
    """
    return ObjectLake(settings.lake_url, settings.lake) if settings.lake_url else None


class ObjectLake:
    """A lake as objects, and its copy in a folder.

    Args:
        url: `s3://BUCKET` or `s3://BUCKET/PREFIX`. Credentials, region and endpoint are those of the `AWS_*` variables,
            of the machine's or the pod's role.
        lake: the folder.

    Raises:
        FingerpostError: obstore is not installed, or the URL or a variable does not fit.
    """

    def __init__(self, url: str, lake: Path) -> None:
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise FingerpostError("FINGERPOST_LAKE_URL needs obstore: pip install 'fingerpost[s3]'") from error
        self._url, self._lake = url, lake
        self._seen: dict[str, str | None] = {}
        endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
        options: dict[str, Any] = {
            "client_options": {"allow_http": endpoint.startswith("http://"), "connect_timeout": "5s", "timeout": "60s"},
            "retry_config": {"max_retries": 3, "retry_timeout": timedelta(seconds=60)},
        }
        with self._told():
            make: Any = S3Store.from_url  # its options are typed one by one
            self._store: Any = make(url, **options, **({"endpoint": endpoint} if endpoint else {}))

    def send(self) -> int:
        """Sends the batches that landed here, and removes each once it is there; returns how many.

        Raises:
            FingerpostError: the storage does not answer, or refuses; what is left is sent the next time.
            OSError: a file cannot be read or removed.
        """
        folders = [self._lake / name for name in _SENT]
        landed = [path for folder in folders for path in (*sorted(folder.rglob(f".*{TAKEN}")), *parquet_files(folder))]

        def send(path: Path) -> int:
            taken = take_batch(path)
            if taken is None:
                return 0
            self._put(self._key(taken.with_name(batch_name(taken))), taken)
            taken.unlink()
            return 1

        return sum(self._each(send, landed))

    def follow(self) -> None:
        """Brings what the platform publishes for engines up to date here.

        Raises:
            FingerpostError: the storage does not answer, or refuses.
            OSError: a file cannot be written.
        """
        published = self._list(_CATEGORIES)
        names = [PurePosixPath(found["path"]).stem.removeprefix("service=") for found in published]
        last = [self._head(_FINGERPRINTS.format(name)) for name in names if is_name(name)]
        told = [found for found in self._list(STATUS) if _is_status(found)]
        for found in (*published, *told, *(each for each in last if each)):
            if self._seen.get(found["path"]) != found["e_tag"]:
                self._get(found)
                self._seen[found["path"]] = found["e_tag"]

    def publish(self, path: Path, content: bytes) -> None:
        """Puts one file of the folder there, as its writer knows it: `follow` may have put an older one in its place.

        Raises:
            FingerpostError: the storage does not answer, or refuses.
        """
        with self._told():
            self._store.put(self._key(path), content)

    def bring(self, path: Path) -> None:
        """Fetches one file of the folder, if it is there.

        Raises:
            FingerpostError: the storage does not answer, or refuses.
            OSError: the file cannot be written.
        """
        found = self._head(self._key(path))
        if found:
            self._get(found)

    def services(self) -> list[str]:
        """The services that there are objects of.

        Raises:
            FingerpostError: the storage does not answer, or refuses.
        """
        folders = [folder for top in self._folders("") for folder in (self._folders(top) if top == INBOX else [top])]
        found = {PurePosixPath(each).name for folder in folders for each in self._folders(folder)}
        return sorted(name for each in found if is_name(name := each.removeprefix("service=")) and name != each)

    def announce(self) -> None:
        """Makes a folder of the inbox for every service that there are objects of, so that its flows are scheduled.

        The scheduler asks no storage itself: the client's threads do not survive its forks.

        Raises:
            FingerpostError: the storage does not answer, or refuses.
            OSError: a folder cannot be made.
        """
        for name in self.services():
            service_folder(self._lake / INBOX, "requests", name).mkdir(parents=True, exist_ok=True)

    def fetch(self, service: str) -> list[dict[str, Any]]:
        """Copies what engines sent of a service into the folder, the whole of it where this machine has no copy yet.

        Returns:
            The batches that now wait in the inbox here, for `drop`.

        Raises:
            FingerpostError: the storage does not answer, or refuses, or an object is none of a lake.
            OSError: a file cannot be written.
        """
        known = self._manifest(service)
        if known is None:
            tops = [top for top in self._folders("") if top not in _LOCAL]
            wanted = [found for top in tops for found in self._of_service(top, service)]
            # What is here already, and was never sent, is newer or as good.
            wanted = [found for found in wanted if not (self._lake / found["path"]).exists()]
        else:
            tops = [top for top in _SENT if top not in _LOCAL]
            wanted = [found for top in tops for found in self._of_service(top, service) if found["path"] not in known]
        list(self._each(self._get, wanted))
        self._note(service, {**(known or {}), **{found["path"]: self._state(found["path"]) for found in wanted}})
        batches = [found for kind in self._folders(INBOX) for found in self._list(f"{kind}/service={service}")]
        list(self._each(self._get, batches))
        return batches

    def push(self, service: str) -> tuple[int, int]:
        """Makes the objects of a service what its files are; returns how many were sent and removed.

        Raises:
            FingerpostError: the storage does not answer, or refuses.
            OSError: a file cannot be read.
        """
        known = self._manifest(service) or {}
        found = {key: self._state(key) for key in self._files(service)}
        changed = [key for key, state in found.items() if known.get(key) != state]
        list(self._each(lambda key: self._put(key, self._lake / key), changed))
        # After the new ones, so that nothing is ever missing.
        gone = [key for key in known if key not in found]
        self._delete(gone)
        self._note(service, found)
        return len(changed), len(gone)

    def drop(self, batches: Iterable[dict[str, Any]]) -> None:
        """Removes batches that are in the lake now; one that was replaced meanwhile stays for the next time.

        Raises:
            FingerpostError: the storage does not answer, or refuses.
        """
        listed = list(batches)
        present = self._each(lambda found: self._head(found["path"]), listed)
        self._delete(
            [was["path"] for was, now in zip(listed, present, strict=True) if now and now["e_tag"] == was["e_tag"]]
        )

    def _files(self, service: str) -> Iterator[str]:
        """The keys of a service's files."""
        for top in sorted(self._lake.iterdir()):
            if top.name in _LOCAL or top.name.startswith(".") or not top.is_dir():
                continue
            for path in (top / f"service={service}.json", *sorted((top / f"service={service}").rglob("*"))):
                if path.is_file() and not path.name.startswith("."):
                    yield self._key(path)

    def _of_service(self, top: str, service: str) -> list[dict[str, Any]]:
        table = self._head(f"{top}/service={service}.json")
        return [*self._list(f"{top}/service={service}"), *([table] if table else [])]

    def _key(self, path: Path) -> str:
        return path.relative_to(self._lake).as_posix()

    def _state(self, key: str) -> list[int]:
        found = (self._lake / key).stat()
        return [found.st_size, found.st_mtime_ns]

    def _manifest(self, service: str) -> dict[str, list[int]] | None:
        """What was the same here and there, by key; None: there is no copy of this service here."""
        try:
            found: dict[str, list[int]] = json.loads(self._manifest_path(service).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found

    def _note(self, service: str, states: dict[str, list[int]]) -> None:
        write_bytes_atomically(self._manifest_path(service), json.dumps(states).encode())

    def _manifest_path(self, service: str) -> Path:
        return self._lake / _MANIFESTS / f"service={service}.json"

    def _put(self, key: str, path: Path) -> None:
        with self._told():
            self._store.put(key, path.read_bytes())

    def _get(self, found: dict[str, Any]) -> None:
        key = PurePosixPath(found["path"])
        # Whoever may write to the bucket must not write anywhere else.
        if key.is_absolute() or any(part in ("", ".", "..") for part in found["path"].split("/")):
            raise FingerpostError(f"{self._url} holds {found['path']!r}, which can be no file of a lake: remove it")
        if found["size"] > _MAX_BYTES:
            raise FingerpostError(f"{self._url} holds {found['path']!r} of {found['size']} bytes: at most {_MAX_BYTES}")
        with self._told():
            content = self._store.get(found["path"]).bytes()
        write_bytes_atomically(self._lake / key, memoryview(content))

    def _head(self, key: str) -> dict[str, Any] | None:
        with self._told():
            try:
                return dict(self._store.head(key))
            except FileNotFoundError:
                return None

    def _list(self, prefix: str) -> list[dict[str, Any]]:
        with self._told():
            return [dict(found) for chunk in self._store.list(prefix) for found in chunk]

    def _folders(self, prefix: str) -> list[str]:
        with self._told():
            return sorted(self._store.list_with_delimiter(prefix or None)["common_prefixes"])

    def _delete(self, keys: list[str]) -> None:
        if keys:
            with self._told():
                self._store.delete(keys)

    def _each(self, work: Any, things: Iterable[Any]) -> list[Any]:
        """Does some transfers side by side: each waits for the network most of its time."""
        with ThreadPoolExecutor(_AT_A_TIME, "objects") as pool:
            return list(pool.map(work, things))

    @contextmanager
    def _told(self) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise FingerpostError(f"FINGERPOST_LAKE_URL={self._url}: {lines[0][:500]}") from error


def _is_status(found: dict[str, Any]) -> bool:
    """Whether an object is a file of `fingerpost.flow_status`, and no more than its reader takes."""
    key = PurePosixPath(found["path"])
    return len(key.parts) == 3 and key.suffix == ".json" and is_name(key.stem) and found["size"] <= MAX_STATUS_BYTES
