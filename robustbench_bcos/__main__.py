"""The process of the command line, as ``python -m robustbench_bcos`` and as the installed command.

What a signal or a closed stream does to the process is decided here, before anything is imported that takes time; what
is wrong with a request, in :mod:`robustbench_bcos.cli`.
"""

import atexit
import io
import os
import sys

INTERRUPTED = 130

try:
    import signal
except KeyboardInterrupt:
    os._exit(INTERRUPTED)

CUT_OFF = 128 + 13
"""What a shell says of a program whose reader has gone (SIGPIPE, which Python takes for an error of its own)."""


def main() -> None:
    """Run the command line; its exit status says how it ended.

    0 done, 1 a model or a plug-in failed on the way, 2 the request cannot be carried out as asked or its results cannot
    be printed, 130 interrupted, by Ctrl-C or by SIGTERM, with which schedulers end what has had its time, 141 the
    reader of standard output has gone.
    """
    ended: list[int] = []
    # Registered first, called last. What somebody else registered before would never be called.
    if not atexit._ncallbacks():
        atexit.register(_leave, ended)
    try:
        _carry_out()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            ended.append(end.code or 0)
        raise


def _carry_out() -> None:
    _listen(_interrupt)
    # Called late: Python takes its own handlers back before it has ended.
    atexit.register(_listen, signal.SIG_IGN)
    sys.unraisablehook = _unraisable
    _open_streams()
    try:
        from robustbench_bcos.cli import main as command_line

        try:
            command_line()
        finally:
            sys.stdout.flush()
            # Threads may have to end, and nothing of theirs is needed.
            _listen(_end)
    except KeyboardInterrupt:
        _tell("interrupted")
        sys.exit(INTERRUPTED)
    except _Unwritten as error:
        _discard(1)
        if isinstance(error.reason, BrokenPipeError):
            sys.exit(CUT_OFF)
        _tell(f"error: standard output cannot be written ({error.reason.strerror}): send it somewhere else")
        sys.exit(2)


def _listen(handler: signal.Handlers | object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell lets what runs in its background ignore Ctrl-C.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)  # type: ignore[arg-type] # typeshed's names of handlers are private


def _interrupt(*_: object) -> None:
    """As Python does, but once: what comes next, while the first is answered, ends the process at once."""
    _listen(_end)
    raise KeyboardInterrupt


def _end(*_: object) -> None:
    """As a kill, after which nothing is lost; processes of this one are ended, too."""
    if "multiprocessing" in sys.modules:
        import multiprocessing

        for child in multiprocessing.active_children():
            child.kill()
    os._exit(INTERRUPTED)


def _leave(ended: list[int]) -> None:
    """End with this status and take no library down: torch's need 180 MiB for that, and half a second."""
    if ended and "torch" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[-1])


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """An interruption may come where Python calls something whose errors nobody can catch."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _tell("interrupted")
        _end()
    sys.__unraisablehook__(unraisable)


class _Unwritten(BaseException):
    """Standard output takes nothing more; no library's handling of errors is to hide it."""

    def __init__(self, reason: OSError) -> None:
        self.reason = reason


class _Output(io.TextIOWrapper):
    """Standard output, whose errors are kept apart from those of other files."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise _Unwritten(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise _Unwritten(error) from None


class _Messages(io.TextIOWrapper):
    """Standard error: that nobody can read it stops no work."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            _discard(2)


def _open_streams() -> None:
    # A stream that is closed would be the next file that is opened.
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _stream(_Output, 1, sys.stdout)
    sys.stderr = _stream(_Messages, 2, sys.stderr)


def _stream(kind: type[io.TextIOWrapper], number: int, before: object) -> io.TextIOWrapper:
    """A stream like the one that there was; what its encoding lacks is escaped."""
    encoding = before.encoding if isinstance(before, io.TextIOWrapper) else "utf-8"
    buffer = before.buffer if isinstance(before, io.TextIOWrapper) else open(number, "wb", closefd=False)  # noqa: SIM115
    by_line = number == 2 or os.isatty(number)
    return kind(buffer, encoding=encoding, errors="backslashreplace", line_buffering=by_line)


def _discard(number: int) -> None:
    """What is still to be written would be an error again, and Python's at its end a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")


if __name__ == "__main__":
    main()
