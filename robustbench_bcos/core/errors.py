"""The one family of errors that is the user's to mend; anything else is a bug and keeps its traceback."""


class RequestError(Exception):
    """A request that cannot be carried out as asked.

    The message is one sentence: the argument, what was expected, what came, and the remedy.
    The command line prints it without a traceback and exits with status 2.
    """


class Interrupted(Exception):
    """The user stopped the work; the message says how to continue it. Exit status 130."""
