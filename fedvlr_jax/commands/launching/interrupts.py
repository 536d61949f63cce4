"""Ctrl-C (SIGINT) before training always ends the command.

Python raises KeyboardInterrupt wherever the process is. While a library loads, its C code may drop
the exception or crash. A callback of the garbage collector drops it too, and JAX has one.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading

# Seconds after which a dropped interrupt is raised again, when the callback has returned.
AGAIN_AFTER_S = 0.01


def end_the_process() -> None:
    """From now on SIGINT ends the process at once, as SIGTERM does, unless it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_exceptions() -> None:
    """From now on SIGINT raises KeyboardInterrupt again, and no callback can drop it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    report = sys.unraisablehook

    def raise_again(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            report(dropped)
            return
        # Later, from another thread: an exception inside this function would be dropped too.
        timer = threading.Timer(AGAIN_AFTER_S, _thread.interrupt_main)
        timer.daemon = True
        timer.start()

    sys.unraisablehook = raise_again
