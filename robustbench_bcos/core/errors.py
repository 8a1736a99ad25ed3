"""The errors that a user can correct; any other exception is a bug and keeps its traceback."""

from robustbench_bcos.core.text import printable


class _Told(Exception):
    """An error whose message is for the user; it may quote files, whose control characters are escaped."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class RequestError(_Told):
    """A request that cannot be carried out as asked.

    The message is one sentence: the argument, what was expected, what came, and the remedy.
    The command line prints it without a traceback and exits with status 2.
    """


class Broken(_Told):
    """A model or a plug-in failed in the middle of the work; the message says where, and how to go on. Exit status 1.

    What was done before is kept.
    """


class Interrupted(_Told):
    """The user stopped the work; the message says how to continue it. Exit status 130."""


def reason_of(error: BaseException) -> str:
    """First line of the message of somebody else's error, which may be empty or pages long; else the error's type."""
    message = str(error.msg if isinstance(error, SyntaxError) else error)
    return message.strip().partition("\n")[0].rstrip() or type(error).__name__


def named_reason_of(error: BaseException) -> str:
    """The error's type, then :func:`reason_of`: ``KeyError: 'eps'``; the type alone where there is no message."""
    name, reason = type(error).__name__, reason_of(error)
    return name if reason == name else f"{name}: {reason}"
