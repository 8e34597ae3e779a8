"""Defines from its status whether a request failed, and whether it is a measurement; the one definition of both.

A failed request is an error of the host, and nothing else: how fast a host fails says nothing of how fast it works.
A request that was refused for what it asked, or whose client went away, is no error of the host, and its time and
CPU are not those of its category either: an answer of 401 within 1 ms is not the work that the route stands for. Both
count as requests. Plain Python, numbers and arrays alike, so that the middleware needs no NumPy.
"""

from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CLIENT_GONE = 499
NO_ANSWER, BROKEN_OFF = 503, 502
_LEAST, _CLIENT_ERROR, _SERVER_ERROR = 100, 400, 500
# Of Envoy's response flags: the client left, or reset its stream; the host's answer ended before its end.
_CLIENT_LEFT = frozenset(("DC", "DR"))
_HOST_LEFT = frozenset(("UC", "UF", "UPE", "UR", "UT"))
# gRPC's codes as the HTTP statuses of google.rpc.Code; by number, from 0.
GRPC_NAMES = {
    name: number
    for number, name in enumerate(
        (
            *("ok", "canceled", "unknown", "invalidargument", "deadlineexceeded", "notfound", "alreadyexists"),
            *("permissiondenied", "resourceexhausted", "failedprecondition", "aborted", "outofrange"),
            *("unimplemented", "internal", "unavailable", "dataloss", "unauthenticated"),
        )
    )
} | {"cancelled": 1}
_OF_GRPC = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)


@overload
def failed(status: float) -> bool: ...
@overload
def failed(status: "NDArray[Any]") -> "NDArray[np.bool_]": ...
def failed(status: Any) -> Any:
    """Whether the host failed: status 500 and above, or no status at all (0 or NaN), as of resets and timeouts."""
    return (status < _LEAST) | (status >= _SERVER_ERROR) | (status != status)  # noqa: PLR0124 (NaN)


@overload
def measures(status: float) -> bool: ...
@overload
def measures(status: "NDArray[Any]") -> "NDArray[np.bool_]": ...
def measures(status: Any) -> Any:
    """Whether a request's duration, CPU and memory tell what its category costs: it was answered, with 100 to 399."""
    return (status >= _LEAST) & (status < _CLIENT_ERROR)


def told_status(status: int, flags: str = "", grpc_status: int | None = None) -> int:
    """The status of a record out of what a proxy tells of a request.

    Args:
        status: of HTTP; 0: none was sent.
        flags: Envoy's response flags, parted by commas: a client that left makes 499 of a status below 500, a host that
            broke off makes 502 of it.
        grpc_status: gRPC's code, 0 to 16, of a call: an answer of status 200 whose trailers tell that it failed.
    """
    said = set(flags.split(",")) if flags else set()
    if status < _SERVER_ERROR and said & _CLIENT_LEFT:
        return CLIENT_GONE
    if status == 0:
        return NO_ANSWER
    if status < _CLIENT_ERROR and said & _HOST_LEFT:
        return BROKEN_OFF
    if status < _CLIENT_ERROR and grpc_status and 0 <= grpc_status < len(_OF_GRPC):
        return _OF_GRPC[grpc_status]
    return status
