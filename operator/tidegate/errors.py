"""The ways in which a reconcile can end badly.

TidegateError
├── Waiting      something else has to happen first; look again after a known time; no error
├── Stalled      only a person can mend it; not tried again until the object changes
├── Conflict     the API server holds a newer object; read again and retry at once
├── Refused      the API server refuses an object of ours (quota, permission, validation); retried with back-off
├── Ending       the namespace is being deleted: nothing can be made there, and the object's own end is on its way
└── Unavailable  a service (API server, Prometheus, MLflow) did not answer; retried with back-off

Any other exception is retried with back-off, too. None of them inherits from kopf.
"""

from datetime import timedelta

__all__ = ["Conflict", "Ending", "Refused", "Stalled", "TidegateError", "Unavailable", "Waiting"]


class TidegateError(Exception):
    """An error with a reason for programs and a message for people."""

    def __init__(self, reason: str, message: str) -> None:
        """Take the CamelCase reason and the sentence that says what to do."""
        super().__init__(message)
        self.reason = reason
        self.message = message


class Waiting(TidegateError):
    """Something else has to happen first."""

    def __init__(self, reason: str, message: str, after: timedelta = timedelta(seconds=10)) -> None:
        """Take the time after which to look again even if no event arrives."""
        super().__init__(reason, message)
        self.after = after


class Stalled(TidegateError):
    """Only a person can mend it: the message says what to change."""


class Conflict(TidegateError):
    """The object was changed by somebody else since it was read."""


class Refused(TidegateError):
    """The API server understood the request and refuses it."""


class Ending(TidegateError):
    """The namespace is being deleted, or is gone."""


class Unavailable(TidegateError):
    """A service did not answer, or answered that it cannot now."""
