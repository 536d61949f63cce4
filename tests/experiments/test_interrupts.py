"""Ctrl-C before training ends the command wherever it arrives."""

import gc
import signal
import subprocess
import sys
import time

import pytest

from fedvlr_jax.commands.launching import interrupts
from tests.conftest import ROOT

# Sends SIGINT while JAX loads. A library whose C code imports another one drops the exception.
WHILE_JAX_LOADS = """
import signal, sys
from fedvlr_jax.commands import cli

class Finder:
    def find_spec(name, path=None, target=None):
        if name == "jaxlib.xla_client":
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                print("dropped")

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder)
sys.argv = ["fedvlr", "train", "--rounds=0"]
cli.main()
"""


def test_an_interrupt_while_libraries_load_ends_the_process():
    run = [sys.executable, "-c", WHILE_JAX_LOADS]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


# Sends SIGINT when the command does its work.
WHILE_IT_WORKS = """
import signal, sys, types
from fedvlr_jax.commands import cli

work = types.ModuleType("work")
work.main = lambda: signal.raise_signal(signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.modules["fedvlr_jax.commands.watch"] = work
sys.argv = ["fedvlr", "watch"]
cli.main()
"""


def test_an_interrupt_of_the_work_lets_it_clean_up():
    run = [sys.executable, "-c", WHILE_IT_WORKS]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "error: interrupted\n")


def test_no_callback_of_the_garbage_collector_drops_an_interrupt(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: reported.append(dropped.exc_type))
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    faults = [ValueError, KeyboardInterrupt]

    def callback(phase, info):
        if faults:
            raise faults.pop()

    def collect():
        gc.callbacks.append(callback)
        gc.collect()
        time.sleep(10)

    try:
        interrupts.raise_exceptions()
        with pytest.raises(KeyboardInterrupt):
            collect()
    finally:
        gc.callbacks.remove(callback)
        signal.signal(signal.SIGINT, before)
    assert reported == [ValueError]


def test_an_ignored_interrupt_stays_ignored(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupts.end_the_process()
        interrupts.raise_exceptions()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
