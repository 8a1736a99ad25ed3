"""Processes that begin with what takes time to import."""

import multiprocessing
from multiprocessing.context import ForkServerContext, SpawnContext


def context_with(*modules: str) -> ForkServerContext | SpawnContext:
    """Forking off a process that has imported torch, and done nothing with it, saves each process seconds.

    Args:
        modules: imported once, by the process that the others are forked from.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context
