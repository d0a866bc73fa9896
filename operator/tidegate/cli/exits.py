"""How a command ends: the exit codes, and the errors that lead to them."""

from enum import IntEnum

__all__ = ["ExitCode", "NotThere", "Problem", "Unreachable"]


class ExitCode(IntEnum):
    """What a script learns from a command."""

    OK = 0
    """Done; with ``status --wait``: healthy on the version that the spec names."""
    ENDED_BADLY = 1
    """``status --wait``: rolled back, or stalled until a person acts. ``lint``: there is something to correct."""
    USAGE = 2
    """An option, the kubeconfig or its context is wrong, or a file cannot be read."""
    TIMED_OUT = 3
    """The release has not ended, or the operator has not taken the command, within the time given."""
    NO_ACCESS = 4
    """There is no such Deployment, or the cluster cannot be reached, lacks Tidegate or forbids it."""
    REFUSED = 5
    """The command makes no sense in this state; nothing was changed, or the operator refused it."""


class Problem(Exception):
    """Ends a command with a message that says what to do."""

    def __init__(self, message: str, code: ExitCode = ExitCode.NO_ACCESS) -> None:
        """Take the message for people and the exit code for scripts."""
        super().__init__(message)
        self.message = message
        self.code = code


class NotThere(Problem):
    """The object does not exist."""


class Unreachable(Problem):
    """The API server does not answer; it may in a moment."""
