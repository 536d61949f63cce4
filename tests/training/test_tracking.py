"""What TensorBoard reads of a run is what the run's own files have."""

import json
import sys
import types

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedvlr_jax.commands.one_run.experiment import run_experiment
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import Progress
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training.tracking import Lenient, TensorBoard, evaluation_callback, scalars_of

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL = dict(width=8, router_hidden=8, eval_every=2, baselines=False)


def read(folder):
    events = EventAccumulator(str(folder))
    return events.Reload()


def test_a_run_in_two_starts(tmp_path):
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 60})
    for rounds in (2, 4):
        config = Config.from_flat(**SMALL, rounds=rounds, workdir=str(tmp_path / "w"))
        simulation = make_simulation(config, dataset)
        tracker = TensorBoard(tmp_path / "t", simulation.model.fusion.names)
        with Progress(rounds) as progress:
            run_experiment(simulation, progress, tracker=tracker)
    lines = [json.loads(line) for line in (tmp_path / "w/metrics.jsonl").read_text().splitlines()]
    events = read(tmp_path / "t")
    found = [(e.step, e.value) for e in events.Scalars("valid/ndcg_50")]
    assert [step for step, _ in found] == [0, 2, 4]
    expected = [line["valid"]["ndcg@50"] for line in lines]
    np.testing.assert_allclose([value for _, value in found], expected, rtol=1e-6)
    summary = json.loads((tmp_path / "w/summary.json").read_text())
    assert events.Scalars("test/ndcg_50")[-1].value == pytest.approx(summary["test"]["ndcg@50"])
    histogram = events.Histograms("router/text")[-1].histogram_value
    assert histogram.num == 40 and 0 < histogram.min <= histogram.max < 1
    options = events.Tensors("options/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| width | 8 |" in options


@pytest.mark.parametrize("routed", [False, True])
def test_the_callback_of_train_tells_every_evaluation(routed):
    """`train` calls it with the run and the rounds per second."""
    told = []
    tracker = types.SimpleNamespace(evaluation=lambda *given: told.append(given))
    fusion = types.SimpleNamespace(set_logits=print if routed else None)
    model = types.SimpleNamespace(fusion=fusion)
    simulation = types.SimpleNamespace(model=model, router_weights=lambda state: f"of {state}")
    run = types.SimpleNamespace(evaluations=({"round": 0}, {"round": 5}), state="state")
    evaluation_callback(tracker, simulation)(run, 1.5)
    assert told == [({"round": 5}, "of state" if routed else None)]


def test_scalars_of_an_entry():
    entry = {"round": 3, "loss": None, "ok": True, "valid": {"hr@50": 2.0, "warm": {"n": np.nan}}}
    assert scalars_of(entry) == {"round": 3.0, "valid/hr@50": 2.0}


def test_a_tracker_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match="pip install tensorboardX"):
        TensorBoard(tmp_path)


def test_a_folder_that_cannot_be_written_ends_the_tracking_not_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    notes = []
    tracker = Lenient(TensorBoard(tmp_path / "file"), "--tensorboard=file", notes.append)
    tracker.begin({}, 0)
    tracker.evaluation({"round": 1, "loss": 0.5})
    tracker.end({"rounds_run": 1, "test": {}})
    (note,) = notes
    assert note.startswith("--tensorboard=file: cannot be written: ")
    assert note.endswith("; the run goes on without it")


def test_a_disk_that_fills_up_ends_the_tracking_not_the_run():
    class Full:
        def evaluation(self, entry, weights=None):
            raise OSError(28, "No space left on device")

    notes = []
    tracker = Lenient(Full(), "disk", notes.append)
    for number in (1, 2):
        tracker.evaluation({"round": number})
    assert notes == ["disk: cannot be written: No space left on device; the run goes on without it"]
