"""Output that cannot be written stops nothing, and shows in the exit status."""

import errno
import io
import os
import subprocess
import sys

import pytest

from fedvlr_jax.commands.launching.output import OUTPUT_LOST, Output, output_survives
from fedvlr_jax.report import Progress
from tests.conftest import ROOT
from tests.experiments.commands import SMALL


class Broken(io.StringIO):
    """A stream whose flush fails, as that of a full disk or of a pipe without a reader does."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def flush(self):
        raise self.error


FULL, LEFT = OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(errno.EPIPE, "pipe")


def ended(monkeypatch, out, body=lambda: print("text", flush=True)):
    """(exit status, what stderr got) of a body whose stdout is `out`."""
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", errors)
    status = 0
    try:
        with output_survives():
            body()
    except SystemExit as left:
        status = left.code
    assert sys.stdout is out
    return status, errors.getvalue()


@pytest.mark.parametrize(
    ("out", "said"),
    [(Broken(FULL), "error: the output could not be written: No space left"), (Broken(LEFT), "")],
    ids=["full", "left"],
)
def test_lost_output_is_a_status(out, said, monkeypatch):
    status, errors = ended(monkeypatch, out)
    assert status == OUTPUT_LOST and errors.startswith(said) and bool(errors) == bool(said)


def test_another_status_stays(monkeypatch):
    def body():
        print("text", flush=True)
        sys.exit(75)

    assert ended(monkeypatch, Broken(FULL), body) == (75, "")
    assert ended(monkeypatch, io.StringIO(), body) == (75, "")


def test_written_output_is_no_failure(monkeypatch):
    out = io.StringIO()
    assert ended(monkeypatch, out) == (0, "") and out.getvalue() == "text\n"


def test_closed_streams_lose_what_is_printed_alone(monkeypatch):
    assert ended(monkeypatch, None, lambda: None) == (0, "")
    assert ended(monkeypatch, None)[0] == OUTPUT_LOST
    closed = io.StringIO()
    closed.close()
    stream = Output(closed)
    assert stream.write("text") == 4 and stream.failure is not None


def test_characters_that_an_encoding_lacks_are_spelt_out():
    bytes_ = io.BytesIO()
    out = Output(io.TextIOWrapper(bytes_, encoding="ascii"))
    out.writelines(["0.1 \u00b1 0.2\n", "caf\u00e9 \u6f22\n"])
    out.flush()
    assert out.failure is None and bytes_.getvalue() == b"0.1 \\xb1 0.2\ncaf\\xe9 \\u6f22\n"


def test_progress_goes_on_without_its_terminal(monkeypatch):
    def body():
        with Progress(2) as progress:
            progress.note("text")
            progress.update(1, 0.5, {"hr@50": 1.0, "ndcg@50": 1.0}, 1, 2.0)

    assert ended(monkeypatch, Broken(LEFT), body) == (OUTPUT_LOST, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.slow
def test_a_run_outlives_its_output(tmp_path):
    """A full disk behind stdout, a narrow encoding, nowhere to keep programs, debugging on."""
    hostile = {"PYTHONIOENCODING": "ascii", "FEDVLR_CACHE_DIR": "/dev/null/cache"}
    hostile |= {"JAX_ENABLE_X64": "1", "JAX_THREEFRY_PARTITIONABLE": "0", "JAX_DEBUG_NANS": "1"}
    command = [sys.executable, "-m", "experiments.train", *SMALL, f"--workdir={tmp_path}"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*command, "--baselines=false"],
            env={**os.environ, **hostile},
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.returncode == OUTPUT_LOST, result.stderr
    assert (tmp_path / "summary.json").exists() and (tmp_path / "report.html").exists()
    not_kept, overruled, lost = result.stderr.splitlines()
    assert not_kept.startswith("note: compiled programs are not stored (/dev/null/cache: Not a dir")
    names = "JAX_THREEFRY_PARTITIONABLE, JAX_ENABLE_X64, JAX_DEBUG_NANS"
    assert overruled == (f"note: these settings do not affect the results of this command: {names}")
    assert lost == "error: the output could not be written: No space left on device"
