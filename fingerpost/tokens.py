"""Tokens of callers: which ones the engine takes, and for what; and which one a caller sends.

Files of tokens are read again when they change, so that tokens are replaced while everything runs.
"""

import hmac
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from fingerpost.errors import FingerpostError

logger = logging.getLogger(__name__)
# An agent reports what a host measured and announces it; a proxy, with its router and its agent, reads tables and
# reports how requests were routed; a person decides about hosts, tells of events, and reads the page.
AGENT, PROXY, PERSON = "agent", "proxy", "person"
ROLES = frozenset({AGENT, PROXY, PERSON})
MAX_TOKENS = 256
_MAX_FILE_BYTES = 2**17
# In a file that gives each token a role, whoever guesses one has that role: short ones are refused.
MIN_LENGTH = 16
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
Found = TypeVar("Found")


class WatchedFile(Generic[Found]):
    """What a small file says. It is looked at whenever it is asked for, and read again if it is another one.

    A file that cannot be read, or says nothing of use, leaves in force what was read before; that is logged once.

    Args:
        parse: the text to what it says; FingerpostError if it says nothing of use, without naming what it says.

    Attributes:
        problem: why what was read before is in force; empty: it is what the file says.
    """

    def __init__(self, path: Path, parse: Callable[[str], Found]) -> None:
        self.path, self._parse = path, parse
        self._seen: tuple[int, ...] | None = None
        self._found: Found | None = None
        self.problem = ""

    def read(self) -> Found:
        """What the file says.

        Raises:
            FingerpostError: it cannot be read, or says nothing of use, and never did.
        """
        try:
            about = self.path.stat()
            seen = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
            if seen != self._seen:
                self._seen = seen
                self._found = self._parse(_text(self.path))
                self.problem = ""
        except OSError as error:
            # It is looked at again, though it comes back as it was.
            self._seen = None
            self._failed(error.strerror or type(error).__name__)
        except FingerpostError as error:
            self._failed(str(error))
        if self._found is None:
            raise FingerpostError(f"no token in {self.path}: {self.problem}")
        return self._found

    def _failed(self, why: str) -> None:
        if why != self.problem and self._found is not None:
            logger.warning("%s: %s; the tokens that were read before stay in force", self.path, why)
        self.problem = why


class TokenFile:
    """The token that a caller sends: the first one in a file.

    Args:
        path: a token a line; empty lines, and those that begin with `#`, say nothing.
    """

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path, tokens_of)

    def read(self) -> str:
        """The token, as the file has it now; errors as of `WatchedFile.read`."""
        return self._file.read()[0]


# What callers of the engine are given: a token for good, or a file of one.
Token = str | TokenFile


def token_of(token: str, path: Path | None) -> Token:
    """The token to send: that of the file if one is named, else the fixed one."""
    return TokenFile(path) if path else token


def token_text(token: Token) -> str:
    """The token to send now; empty: none. Errors as of `WatchedFile.read`."""
    return token if isinstance(token, str) else token.read()


class AcceptedTokens:
    """The tokens that a server takes, each with the roles of those who send it.

    Args:
        token: of all roles; empty: there is none.
        token_file: tokens of all roles, a line each.
        roles_file: tokens of one role, `ROLE TOKEN` a line; a role may have several.
    """

    def __init__(self, token: str = "", token_file: Path | None = None, roles_file: Path | None = None) -> None:
        self._token = token
        self._files: list[WatchedFile[dict[str, frozenset[str]]]] = []
        if token_file:
            self._files.append(WatchedFile(token_file, lambda text: dict.fromkeys(tokens_of(text), ROLES)))
        if roles_file:
            self._files.append(WatchedFile(roles_file, roles_by_token))

    @property
    def asked(self) -> bool:
        """Whether tokens are asked for at all."""
        return bool(self._token or self._files)

    def check(self) -> None:
        """Reads the files.

        Raises:
            FingerpostError: one cannot be read, or holds no token.
        """
        for each in self._files:
            each.read()

    def problem(self) -> str:
        """Which file cannot be read, and why; empty: none."""
        return "; ".join(f"{each.path}: {each.problem}" for each in self._files if each.problem)

    def roles_of(self, given: str) -> frozenset[str]:
        """The roles of who sends a token; none: it is not known. Each one known is compared, in constant time."""
        found: frozenset[str] = frozenset()
        if self._token and _same(given, self._token):
            found = ROLES
        for each in self._files:
            try:
                known = each.read()
            except FingerpostError:  # it never could be read, which `problem` says
                continue
            for token, roles in known.items():
                if _same(given, token):
                    found |= roles
        return found


def tokens_of(text: str) -> list[str]:
    """The tokens in a file of tokens.

    Raises:
        FingerpostError: it has none, or a line that is none; the message names the line's number alone.
    """
    found = []
    for number, line in _lines(text):
        if not _TOKEN.fullmatch(line):
            raise FingerpostError(f"line {number} is no token: write one a line, of up to 512 ASCII characters")
        found.append(line)
    return _some(found)


def roles_by_token(text: str) -> dict[str, frozenset[str]]:
    """Tokens with their roles, in a file of `ROLE TOKEN` lines; errors as of `tokens_of`."""
    found: dict[str, frozenset[str]] = {}
    for number, line in _lines(text):
        role, _, token = line.partition(" ")
        token = token.strip()
        if role not in ROLES or not _TOKEN.fullmatch(token):
            raise FingerpostError(f"line {number} is not `ROLE TOKEN`, with ROLE one of {', '.join(sorted(ROLES))}")
        if len(token) < MIN_LENGTH:
            raise FingerpostError(f"the token in line {number} is shorter than {MIN_LENGTH} characters")
        found[token] = found.get(token, frozenset()) | {role}
    _some(list(found))
    return found


def _some(tokens: list[str]) -> list[str]:
    if not tokens:
        raise FingerpostError("it holds no token")
    if len(tokens) > MAX_TOKENS:
        raise FingerpostError(f"it holds more than {MAX_TOKENS} tokens")
    return tokens


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, stripped


def _text(path: Path) -> str:
    # A pipe in its place must not hold us up.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FingerpostError("it is no file")
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise FingerpostError(f"it has more than {_MAX_FILE_BYTES} bytes")
    return data.decode("utf-8", "replace")


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())
