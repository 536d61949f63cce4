"""What can befall a command from outside: a signal to stop, memory that does not suffice."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

import jax
from rich.console import Console

from fedvlr_jax.simulation import Simulation

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """The run was asked to stop, and has saved; the message says where it stands."""


class OutOfMemory(Exception):
    """The machine could not hold the run; the message says how large it is."""


class StopRequest:
    """Inside the block, SIGTERM and SIGINT ask to stop, and a second one ends the process.

        with StopRequest() as stop:
            train(..., leave=lambda: stop.asked)

    Attributes:
      asked: whether a signal has arrived.
      name: which, such as "SIGTERM"; empty before one has.
    """

    def __init__(self):
        self.name = ""

    @property
    def asked(self) -> bool:
        return bool(self.name)

    def __enter__(self) -> StopRequest:
        # Python runs a handler only between two of the main thread's instructions, which a
        # block of compiled rounds can put off for minutes. The wakeup descriptor is written
        # by the interpreter at once, and another thread reads it.
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._writes, False)
        self._old_descriptor = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
        self._old_handlers = {s: signal.signal(s, lambda *_: None) for s in STOP_SIGNALS}
        self._watcher = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_descriptor)
        os.close(self._writes)
        self._watcher.join()
        os.close(self._reads)

    def _watch(self) -> None:
        while received := os.read(self._reads, 1):
            if received[0] not in STOP_SIGNALS:
                continue
            if self.asked:
                # Nothing is lost: a save cut short is no checkpoint, the one before it is.
                Console(stderr=True).show_cursor()
                os._exit(128 + received[0])
            self.name = signal.Signals(received[0]).name
            print(
                f"{self.name}: saving after the rounds under way; once more leaves at once",
                file=sys.stderr,
            )


def ran_out(error: BaseException) -> bool:
    """Whether Python, NumPy or the device could not allocate."""
    # Work that is dispatched and then finds no memory is reported as INTERNAL.
    known = ("RESOURCE_EXHAUSTED", "Out of memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in known)


@contextlib.contextmanager
def memory_explained(simulation: Simulation) -> Iterator[None]:
    """Turns running out of memory inside the block into `OutOfMemory`, with the state's size."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not ran_out(error):
            raise
        reason = str(error).split("\n")[0] or "no memory left"
        raise OutOfMemory(
            f"out of memory: the state of {simulation.dataset.num_users} clients takes "
            f"{simulation.state_bytes / 1e6:.1f} MB and the best state as much again; lower "
            f"--width, --router_hidden or --cohort ({reason})"
        ) from error
