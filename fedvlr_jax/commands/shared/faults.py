"""What can befall a command from outside: a signal to stop, memory that does not suffice."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from fedvlr_jax.simulation import Simulation


def _known(*names: str) -> list[signal.Signals]:
    """Those that this system has."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


# By a person, or by a system that shuts down.
INSISTENT_SIGNALS = _known("SIGINT", "SIGTERM", "SIGQUIT", "SIGBREAK")
# What else a closed terminal and batch systems send before they kill.
STOP_SIGNALS = [*INSISTENT_SIGNALS, *_known("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")]


class Interrupted(Exception):
    """The run was asked to stop, and has saved; the message says where it stands."""


class OutOfMemory(Exception):
    """The machine could not hold the run; the message says how large it is."""


class StopRequest:
    """Inside the block, STOP_SIGNALS ask to stop; a second insistent one ends the process.

    The others may come in numbers (a shell repeats the SIGHUP of its terminal, a limit on
    processor time its SIGXCPU) and never end it. A signal that whoever started the process had it
    ignore, as nohup does with SIGHUP, stays ignored, but for SIGINT and SIGTERM: a shell has
    every process in its background ignore SIGINT.

        with StopRequest() as stop:
            train(..., leave=lambda: stop.asked)

    Attributes:
      asked: whether a signal has arrived.
      name: which, such as "SIGTERM"; empty before one has.
    """

    def __init__(self):
        self.name = ""
        self._insisted = False

    @property
    def asked(self) -> bool:
        return bool(self.name)

    def __enter__(self) -> StopRequest:
        # Python runs a handler only between two of the main thread's instructions, which a
        # block of compiled rounds can put off for minutes. The wakeup descriptor is written
        # by the interpreter at once, and another thread reads it.
        # A socket, for Windows takes nothing else.
        self._reads, self._writes = socket.socketpair()
        self._writes.setblocking(False)
        descriptor = self._writes.fileno()
        self._old_descriptor = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
        always = (signal.SIGINT, signal.SIGTERM)
        heeded = [s for s in STOP_SIGNALS if s in always or signal.getsignal(s) != signal.SIG_IGN]
        self._old_handlers = {s: signal.signal(s, lambda *_: None) for s in heeded}
        self._watcher = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._writes.close()
        self._watcher.join()
        self._reads.close()

    def _watch(self) -> None:
        while received := self._reads.recv(1):
            number = received[0]
            if number not in self._old_handlers:
                continue
            if number in INSISTENT_SIGNALS:
                if self._insisted:
                    # Nothing is lost: a save cut short is no checkpoint, the one before it is.
                    Console(stderr=True).show_cursor()
                    os._exit(128 + number)
                self._insisted = True
            if self.asked:
                continue
            self.name = signal.Signals(number).name
            again = "once more" if self._insisted else "SIGTERM or SIGINT twice"
            print(
                f"{self.name}: saving after the rounds under way; {again} leaves at once",
                file=sys.stderr,
            )


def ran_out(error: BaseException) -> bool:
    """Whether Python, NumPy or the device could not allocate."""
    # Work that is dispatched and then finds no memory is reported as INTERNAL.
    known = ("RESOURCE_EXHAUSTED", "Out of memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in known)


def missing_platform() -> str:
    """Why JAX has no device to compute on; empty where it has one."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # An assertion, for cuda without its plugin.
        reason = str(error).split(" (set JAX_PLATFORMS")[0] or "no such device is here"
        asked = os.environ.get("JAX_PLATFORMS", "")
        return f"JAX_PLATFORMS={asked}: {reason}; unset it, or give cpu"
    return ""


@contextlib.contextmanager
def memory_explained(simulation: Simulation) -> Iterator[None]:
    """Turns running out of memory inside the block into `OutOfMemory`, with the state's size."""
    import jax

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
