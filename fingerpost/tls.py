"""TLS towards the engine: whose certificates callers trust, and the one they show."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from fingerpost.errors import FingerpostError


@dataclass(frozen=True)
class ClientTLS:
    """What a caller of the engine uses where the engine's URL begins with `https:`.

    Args:
        ca: certificates of the authorities that may have signed the engine's (PEM); None: those of the system, or of
            the file that `SSL_CERT_FILE` names.
        cert, key: the caller's own certificate and its key (PEM), for an engine that asks for one; None: it has none.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Checks certificate and name of the engine; the files are read now.

        Raises:
            FingerpostError: one cannot be read, or holds no such thing.
        """
        named = [str(each) for each in (self.ca, self.cert, self.key) if each]
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ValueError) as error:  # of OpenSSL too
            why = getattr(error, "strerror", None) or error
            raise FingerpostError(f"no TLS with {', '.join(named) or 'SSL_CERT_FILE'}: {why}") from error
        return context


SYSTEM = ClientTLS()
