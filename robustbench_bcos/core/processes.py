"""Processes that begin with what takes time to import."""

import multiprocessing
import signal
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.forkserver import ensure_running


def context_with(*modules: str) -> ForkServerContext | SpawnContext:
    """Forking off a process that has imported torch, and done nothing with it, saves each process seconds.

    Args:
        modules: imported once, by the process that the others are forked from.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    # Ctrl-C goes to all processes of a terminal; this one would be interrupted in the middle of an import.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context
