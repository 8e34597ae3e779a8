"""Reads a Service's EndpointSlices from the API server of the Kubernetes cluster that this process runs in."""

import os
import re
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

import httpx

from fingerpost.errors import FingerpostError

# Where every pod finds the token and the certificate authority of its account.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LABEL = "kubernetes.io/service-name"
# A label of DNS, which names of namespaces and Services are.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_EVERY_S = 2.0
_TIMEOUT_S = 5.0
_MAX_BYTES = 64 * 2**20


class ClusterSlices:
    """Asks for the slices of one Service, at most every two seconds; in between it repeats the last answer.

    Args:
        service: name of the Service, or `NAMESPACE/NAME`; without a namespace the pod's own.
        account: folder with `token`, `ca.crt` and `namespace`; None: `ACCOUNT`.
        environment: has `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.

    Raises:
        FingerpostError: the name is none.
    """

    def __init__(
        self,
        service: str,
        account: Path | None = None,
        environment: Mapping[str, str] = os.environ,
        every_s: float = _EVERY_S,
    ) -> None:
        namespace, slash, name = service.rpartition("/")
        if not _NAME.fullmatch(name) or (slash and not _NAME.fullmatch(namespace)):
            raise FingerpostError(f"{service!r}: write kubernetes:SERVICE:PORT or kubernetes:NAMESPACE/SERVICE:PORT")
        self._namespace, self._name, self._account, self._every_s = namespace, name, account or ACCOUNT, every_s
        host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
        self._server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}" if host else ""
        self._client: httpx.Client | None = None
        self._last, self._asked_at = "", float("-inf")

    def text(self) -> str:
        """The slices as JSON, an `EndpointSliceList`.

        Raises:
            FingerpostError: this is no pod, or the API server does not answer, or not with them.
        """
        if time.monotonic() - self._asked_at >= self._every_s:
            self._last = self._ask()
            self._asked_at = time.monotonic()
        return self._last

    def _ask(self) -> str:
        if not self._server:
            raise FingerpostError("KUBERNETES_SERVICE_HOST is not set: kubernetes: works in a pod of a cluster alone")
        try:
            # The kubelet renews the token, so it is read each time.
            token = (self._account / "token").read_text().strip()
            namespace = self._namespace or (self._account / "namespace").read_text().strip()
            if self._client is None:
                trusted = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
                self._client = httpx.Client(verify=trusted, timeout=_TIMEOUT_S, trust_env=False)
            # Resource version 0: whatever the API server has in memory, which spares its database.
            query = urlencode({"labelSelector": f"{_LABEL}={self._name}", "resourceVersion": "0"})
            url = f"{self._server}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?{query}"
            with self._client.stream("GET", url, headers={"Authorization": f"Bearer {token}"}) as answer:
                body = b""
                for piece in answer.iter_bytes():
                    body += piece
                    if len(body) > _MAX_BYTES:
                        raise FingerpostError(f"the API server's answer is larger than {_MAX_BYTES} bytes")
                if answer.status_code != httpx.codes.OK:
                    raise FingerpostError(
                        f"the API server answers {answer.status_code} for the endpoint slices of "
                        f"{namespace}/{self._name}: the pod's account must be allowed to list endpointslices there"
                    )
                return body.decode()
        except (OSError, httpx.HTTPError, UnicodeDecodeError) as error:
            raise FingerpostError(f"the cluster's API server cannot be asked: {error}") from error
