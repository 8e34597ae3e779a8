"""Errors whose message is meant for the person at the terminal: what was wrong, and what to do."""


class FingerpostError(Exception):
    """Base of all errors that the command line prints as one line, without a traceback."""


class PortInUseError(FingerpostError):
    """A port the stack needs is taken."""


class AlreadyRunningError(FingerpostError):
    """Another process does already what only one may do."""


class ProcessDiedError(FingerpostError):
    """A process of the stack ended while it was needed."""


class NotReadyError(FingerpostError):
    """A process of the stack did not answer in time."""


class NoDataError(FingerpostError):
    """There is not (yet) the telemetry or model that a step needs."""


class RefusedError(ValueError):
    """One input is refused.

    Args:
        reason: a short, stable name, such as `duration_s:negative`; refusals are counted by it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
