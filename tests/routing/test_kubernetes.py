"""Endpoints of a Service from the cluster's API server: who asks, what for, and what is said when it refuses."""

import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fingerpost.errors import FingerpostError
from fingerpost.routing import kubernetes
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.hosts import host_source
from fingerpost.routing.kubernetes import ClusterSlices

pytestmark = pytest.mark.process

# As an API server lists them: the items have no kind of their own.
SLICES = {
    "kind": "EndpointSliceList",
    "apiVersion": "discovery.k8s.io/v1",
    "items": [
        {
            "addressType": "IPv4",
            "ports": [{"port": 8080}],
            "endpoints": [
                {"addresses": ["10.1.0.1"], "conditions": {"ready": True}, "targetRef": {"name": "web-1"}, "zone": "a"},
                {
                    "addresses": ["10.1.0.2"],
                    "conditions": {"ready": False, "serving": True, "terminating": True},
                    "targetRef": {"name": "web-2"},
                },
            ],
        }
    ],
}
PATH = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"
QUERY = "?labelSelector=kubernetes.io%2Fservice-name%3D{}&resourceVersion=0"


class ApiServer(ThreadingHTTPServer):
    """Lists slices to whoever has the token, over TLS."""

    def __init__(self, folder):
        self.bearer, self.asked = "first", []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.server.asked.append(self.path)
                known = self.headers["Authorization"] == f"Bearer {self.server.bearer}"
                body = json.dumps(SLICES if known else {"kind": "Status"}).encode()
                self.send_response(200 if known else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "ca.crt", folder / "ca.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """An API server, and the folder of an account at it, as a pod finds them."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", "ca.key", "-out", "ca.crt"),
        ],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    server = ApiServer(tmp_path)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "namespace").write_text("shop-team")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
    monkeypatch.setattr(kubernetes, "ACCOUNT", tmp_path)
    yield server, tmp_path
    server.shutdown()
    server.server_close()


def test_endpoints_of_a_service_by_the_pods_account(cluster):
    server, account = cluster
    slices = ClusterSlices("shop", account, every_s=0)
    assert json.loads(slices.text()) == SLICES
    # The kubelet has renewed it.
    server.bearer = "second"
    with pytest.raises(FingerpostError, match=r"answers 403 .* shop-team/shop: the pod's account must be allowed"):
        slices.text()
    (account / "token").write_text("second")
    assert json.loads(ClusterSlices("other/shop", account, every_s=0).text()) == SLICES
    assert [server.asked[0], server.asked[-1]] == [
        (PATH + QUERY).format("shop-team", "shop"),
        (PATH + QUERY).format("other", "shop"),
    ]


def test_hosts_are_those_of_the_service_and_it_is_not_asked_at_every_look(cluster):
    server, _ = cluster
    source = host_source("kubernetes:shop:9000")
    wanted = [Upstream("web-1", "10.1.0.1", 9000, "a"), Upstream("web-2", "10.1.0.2", 9000, "", True)]
    assert [source() for _ in range(5)] == [wanted] * 5
    assert len(server.asked) == 1
    assert host_source("kubernetes:shop")()[0] == Upstream("web-1", "10.1.0.1", 8080, "a")


@pytest.mark.usefixtures("cluster")
def test_outside_of_a_cluster_and_with_an_unknown_authority_it_says_so(tmp_path, monkeypatch):
    for name in ("kubernetes:", "kubernetes:Shop:80", "kubernetes:a/b/c:80", "kubernetes:/shop:80"):
        with pytest.raises(FingerpostError, match="write kubernetes:SERVICE:PORT"):
            host_source(name)
    # Any other authority will do: this one signed nothing.
    (tmp_path / "ca.crt").write_text("")
    with pytest.raises(FingerpostError, match="cannot be asked"):
        host_source("kubernetes:shop:80")()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(FingerpostError, match="KUBERNETES_SERVICE_HOST is not set"):
        host_source("kubernetes:shop:80")()
