"""An example of each call of the HTTP API, for `/docs`: shell commands that work against a local engine."""

from typing import Any

_BEARER = '-H "authorization: Bearer $FINGERPOST_ENGINE_TOKEN"'
_AT = "http://127.0.0.1:3000"
_BODY = "-H 'content-type: application/json' -d"
# By path.
EXAMPLES = {
    "/v1/page": f"curl '{_AT}/v1/page?service=shop'",
    "/v1/page/cell": f"curl '{_AT}/v1/page/cell?service=shop&host=web-1&category=other'",
    "/v1/reports": f"curl {_BEARER} -H 'content-type: application/vnd.fingerpost.reports+msgpack' \\\n"
    f"  --data-binary @reports.msgpack.gz {_AT}/v1/reports",
    "/v1/batches": f"curl {_BEARER} -H 'content-type: application/vnd.apache.parquet' \\\n"
    f"  --data-binary @requests.parquet '{_AT}/v1/batches?kind=requests&service=shop&name=web-1-1'",
    "/v1/members": f"curl {_BEARER} {_BODY} \\\n"
    f'  \'{{"service": "shop", "host": "web-1", "state": "draining"}}\' {_AT}/v1/members',
    "/v1/events": f"curl {_BEARER} {_BODY} \\\n"
    f'  \'{{"kind": "deploy", "service": "shop", "note": "release 42"}}\' {_AT}/v1/events',
    "/v1/events/withdrawn": f"curl {_BEARER} {_BODY} \\\n"
    f'  \'{{"service": "shop", "id": "0123456789abcdef"}}\' {_AT}/v1/events/withdrawn',
    "/v1/services/{service}/events": f"curl {_AT}/v1/services/shop/events",
    "/v1/predict": f'curl {_BODY} \'{{"service": "shop"}}\' {_AT}/v1/predict',
    "/v1/route": f'curl {_BODY} \'{{"service": "shop", "category": "other"}}\' {_AT}/v1/route',
    "/v1/services/{service}/table": f"curl '{_AT}/v1/services/shop/table?wait=5'",
    "/v1/services/{service}/hosts": f"curl {_AT}/v1/services/shop/hosts",
    "/v1/services/{service}/categories": f"curl {_AT}/v1/services/shop/categories",
    "/v1/hosts": f"curl '{_AT}/v1/hosts?service=shop'",
    "/v1/models": f"curl {_AT}/v1/models",
    "/v1/health": f"curl {_AT}/v1/health",
    "/metrics": f"curl {_AT}/metrics",
}


def add_examples(description: dict[str, Any]) -> dict[str, Any]:
    """Adds to every call of an OpenAPI description its example, as `x-codeSamples`, which other viewers know too."""
    for path, methods in description["paths"].items():
        for call in methods.values():
            if path in EXAMPLES:
                call["x-codeSamples"] = [{"lang": "Shell", "source": EXAMPLES[path]}]
    return description
