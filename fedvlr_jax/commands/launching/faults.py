"""Faults from outside a command: a signal to stop, too little memory, no device."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from rich.console import Console

if TYPE_CHECKING:
    from fedvlr_jax.simulation import Simulation


def _known(*names: str) -> list[signal.Signals]:
    """The signals that exist on this system."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


# Sent by a user, or by a system that shuts down.
INSISTENT_SIGNALS = _known("SIGINT", "SIGTERM", "SIGQUIT", "SIGBREAK")
# A closed terminal and batch systems send these too, before SIGKILL.
STOP_SIGNALS = [*INSISTENT_SIGNALS, *_known("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")]


class Interrupted(Exception):
    """A signal stopped the run, and the run is saved. The message names the round."""


class OutOfMemory(Exception):
    """The run does not fit in memory. The message has its size."""


class StopRequest:
    """Inside the block, each of STOP_SIGNALS requests a stop.

    A second signal of INSISTENT_SIGNALS ends the process at once. The other signals never do,
    because they can be repeated: a shell repeats SIGHUP, a limit on CPU time repeats SIGXCPU.
    A signal that the parent process set to be ignored (nohup: SIGHUP) stays ignored. SIGINT and
    SIGTERM are exceptions, because a shell sets SIGINT to be ignored in background processes.

        with StopRequest() as stop:
            train(..., leave=lambda: stop.asked)

    Attributes:
      asked: whether a signal has arrived.
      name: name of the first signal, such as "SIGTERM"; empty before it.
    """

    def __init__(self) -> None:
        self.name = ""
        self._insisted = False

    @property
    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return bool(self.name)

    def __enter__(self) -> Self:
        # Python runs a handler only between two instructions of the main thread, and a block of
        # compiled rounds can delay it for minutes. The interpreter writes the wakeup descriptor at
        # once, and another thread reads it. It is a socket, because Windows needs one.
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
                    # An interrupted save is no checkpoint; the previous checkpoint stays whole.
                    Console(stderr=True).show_cursor()
                    os._exit(128 + number)
                self._insisted = True
            if self.asked:
                continue
            self.name = signal.Signals(number).name
            again = "once more" if self._insisted else "SIGTERM or SIGINT twice"
            print(
                f"{self.name}: saves after the current rounds; {again} ends the command at once",
                file=sys.stderr,
            )


def ran_out(error: BaseException) -> bool:
    """Whether the error says that Python, NumPy or the device could not allocate memory."""
    # JAX reports INTERNAL if work runs out of memory after its dispatch.
    known = ("RESOURCE_EXHAUSTED", "Out of memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in known)


def missing_platform() -> str:
    """Why JAX has no device; empty if it has one."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: cuda without its plugin.
        reason = str(error).split(" (set JAX_PLATFORMS")[0] or "no such device is here"
        asked = os.environ.get("JAX_PLATFORMS", "")
        return f"JAX_PLATFORMS={asked}: {reason}; unset it, or set it to cpu"
    return ""


@contextlib.contextmanager
def memory_explained(simulation: Simulation) -> Iterator[None]:
    """Raises `OutOfMemory`, with the size of the state, if the block runs out of memory."""
    import jax

    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not ran_out(error):
            raise
        reason = str(error).split("\n")[0] or "no memory left"
        raise OutOfMemory(
            f"out of memory: the state of {simulation.population.num_users} clients takes "
            f"{simulation.state_bytes / 1e6:.1f} MB and the best state as much again; lower "
            f"--width, --router_hidden or --cohort ({reason})"
        ) from error
