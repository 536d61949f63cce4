"""The estimate against what a state and a process really take."""

import subprocess
import sys

import numpy as np
import pytest

from fedvlr_jax import trees
from fedvlr_jax.config import Config
from fedvlr_jax.data.registry import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.round import PLANS, chunk_size, client_bytes
from fedvlr_jax.memory import check_fits, estimate
from fedvlr_jax.simulation import make_simulation


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 50, "items": 60})


@pytest.mark.parametrize("backbone", ["fcf", "fedrap"])
def test_state_is_estimated_exactly(backbone, dataset):
    simulation = make_simulation(Config.from_flat(backbone=backbone), dataset)
    parts, state = estimate(simulation), simulation.init()
    # 50 clients, and rows of nobody up to a multiple of 8.
    assert parts["private"] * 56 == trees.num_bytes(state.private) * 50
    assert parts["shared"] == trees.num_bytes(state.server)
    host = make_simulation(Config.from_flat(backbone=backbone, store="host"), dataset)
    disk = make_simulation(Config.from_flat(backbone=backbone, store="disk"), dataset)
    row = trees.num_bytes(host.client_shapes)
    assert estimate(host)["private"] == 50 * row and estimate(disk)["private"] == 0


def test_a_run_that_cannot_fit_is_refused_with_the_numbers(dataset):
    fits = make_simulation(Config.from_flat(memory_budget_gb=2.0), dataset)
    assert sum(check_fits(fits).values()) < 2e9
    small = make_simulation(Config.from_flat(memory_budget_gb=0.1), dataset)
    with pytest.raises(InputError, match=r"memory_budget_gb=0.1: .* needs about .* GB \(private"):
        check_fits(small)


def test_chunks_follow_the_budget(dataset):
    for budget in (0.01, 0.1, 1.0):
        task = make_simulation(Config.from_flat(memory_budget_gb=budget), dataset).task
        for plan in PLANS:
            size = chunk_size(task, plan, 16)
            assert size == 1 or size * client_bytes(task, plan, 16) <= budget * 1e9 / 4


PEAK = """
import sys
from experiments.train import run_experiment
from fedvlr_jax.config import Config
from fedvlr_jax.data.registry import load_dataset
from fedvlr_jax.memory import estimate
from fedvlr_jax.report import Progress
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.summary import peak_rss_mb
dataset = load_dataset("synthetic", data_root="", synthetic={"users": 6000, "items": 500})
rounds = int(sys.argv[2])
config = Config.from_flat(
    rounds=rounds, eval_every=1, checkpoint_every=1, checkpoint_share=1.0, workdir=sys.argv[1],
    baselines=False, router_hidden=64, memory_budget_gb=6.0, store=sys.argv[3], cohort=1500,
)
simulation = make_simulation(config, dataset)
with Progress(rounds) as progress:
    run_experiment(simulation, progress)
print("peak", peak_rss_mb() / (sum(estimate(simulation).values()) / 1e6))
"""


def printed_by(code: str, *arguments: str) -> float:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return float(done.stdout.split()[-1])


@pytest.mark.parametrize("store", ["device", "disk"])
def test_the_estimate_bounds_a_real_process_that_saves_and_goes_on(store, tmp_path):
    for rounds in "24":
        assert 0.5 < printed_by(PEAK, str(tmp_path / "w"), rounds, store) < 1.15


def test_the_peak_is_not_that_of_the_parent():
    held = np.ones(2**27)  # 1.07 GB, more than a process needs that imports and ends.
    code = "from fedvlr_jax.summary import peak_rss_mb; print(peak_rss_mb())"
    assert 50 < printed_by(code) < held.nbytes / 1e6 / 1.5
