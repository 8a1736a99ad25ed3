"""The one family of errors that is the user's to mend; anything else is a bug and keeps its traceback."""


class RequestError(Exception):
    """A request that cannot be carried out as asked.

    The message is one sentence: the argument, what was expected, what came, and the remedy.
    The command line prints it without a traceback and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the place of a syntax error; may be empty."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return message.strip().partition("\n")[0]


class Interrupted(Exception):
    """The user stopped the work; the message says how to continue it. Exit status 130."""
