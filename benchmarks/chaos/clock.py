"""The wall clock of all processes of a platform, which can jump while the machine's own goes on."""

import struct
from pathlib import Path

from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.module import compile_sources

_SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """A clock in a folder, true at first.

    Times of change of files are the machine's, whatever this clock says.

    Attributes:
        environment: variables of the processes whose clock it is; none where it cannot be made.
        problem: why it cannot be made; empty: it was.
    """

    def __init__(self, folder: Path) -> None:
        self._file, library = folder / "clock", folder / "clock.so"
        self.environment: dict[str, str] = {}
        self.problem = ""
        self.set(0)
        try:
            compile_sources(["-O2", "-shared", "-fPIC"], [_SOURCE], ["-ldl"], library)
        except FingerpostError as error:
            self.problem = str(error)
        else:
            self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._file)}

    def set(self, offset_s: int) -> None:
        """Sets how far it is off."""
        # In place: it is mapped.
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", offset_s))
