"""The estimate against what a state and a process really take."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from fedvlr_jax import memory, trees
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.plans import PLANS, chunk_size, client_bytes
from fedvlr_jax.machine import MemoryLimit
from fedvlr_jax.memory import check_fits, describe_plan, estimate
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
    row = trees.num_bytes(host.initial.client_shapes)
    assert estimate(host)["private"] == 50 * row and estimate(disk)["private"] == 0


def test_a_run_that_cannot_fit_is_refused_with_the_numbers(dataset):
    fits = make_simulation(Config.from_flat(memory_budget_gb=2.0), dataset)
    assert sum(check_fits(fits).values()) < 2e9
    small = make_simulation(Config.from_flat(memory_budget_gb=0.1), dataset)
    message = r"the run needs about .* GB \(private.* budget is 0.1 GB \(memory_budget_gb=0.1\)"
    with pytest.raises(InputError, match=message):
        check_fits(small)


def test_the_limit_that_applies_is_named(dataset, monkeypatch):
    limit = MemoryLimit(2e9, "Slurm, SLURM_MEM_PER_NODE=1907")
    monkeypatch.setattr(memory, "memory_limit", lambda: limit)
    simulation = make_simulation(Config.from_flat(), dataset)
    named = "1.8 GB (nine tenths of 2 GB, the limit of Slurm, SLURM_MEM_PER_NODE=1907)"
    assert f" of {named}: private" in describe_plan(simulation)
    monkeypatch.setattr(memory, "memory_limit", lambda: limit._replace(size=2e8))
    with pytest.raises(
        InputError, match=r"budget is 0.18 GB \(nine tenths of 0.2 GB, the limit of Slurm"
    ):
        check_fits(simulation)


def test_what_is_held_out_is_estimated_by_the_number_of_targets(dataset):
    """Two users with 50 targets take as much as 50 users with two."""

    def with_targets(user, item):
        test = Interactions.from_pairs(user=user, item=item, num_users=50, num_items=60)
        return make_simulation(Config.from_flat(), dataclasses.replace(dataset, test=test))

    none = with_targets([], [])
    two = with_targets([0] * 50 + [1] * 50, [*range(50)] * 2)
    all_users = with_targets([*range(50)] * 2, [0] * 50 + [1] * 50)
    sizes = [estimate(simulation)["data"] for simulation in (none, two, all_users)]
    # Item and time of each, 12 bytes. The lists of both parts have 100 places instead of the 50
    # of validation: client, item and entry on the host, 16 bytes, the first two on the device.
    assert sizes[1] - sizes[0] == sizes[2] - sizes[0] == 100 * 12 + 2 * 50 * (16 + 8)


def test_chunks_follow_the_budget(dataset):
    for budget in (0.01, 0.1, 1.0):
        task = make_simulation(Config.from_flat(memory_budget_gb=budget), dataset).task
        for plan in PLANS:
            size = chunk_size(task, plan, 16)
            assert size == 1 or size * client_bytes(task, plan, 16) <= budget * 1e9 / 4


def test_a_rule_that_keeps_all_uploads_is_counted(dataset):
    def work(rule):
        config = Config.from_flat(aggregation=rule, chunk=5, plan="dense")
        return estimate(make_simulation(config, dataset))["work"]

    assert work("median") > work("float32")


PEAK = """
import sys
from fedvlr_jax.commands.one_run.experiment import run_experiment
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.memory import estimate
from fedvlr_jax.report import Progress
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.machine import peak_rss_mb
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
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3600)
    return float(done.stdout.split()[-1])


@pytest.mark.parametrize("store", ["device", "disk"])
@pytest.mark.long
@pytest.mark.slow
def test_the_estimate_bounds_a_real_process_that_saves_and_goes_on(store, tmp_path):
    for rounds in "24":
        assert 0.5 < printed_by(PEAK, str(tmp_path / "w"), rounds, store) < 1.15


@pytest.mark.slow
def test_the_peak_is_not_that_of_the_parent():
    held = np.ones(2**27)  # 1.07 GB, more than a process needs that imports and ends.
    code = "from fedvlr_jax.machine import peak_rss_mb; print(peak_rss_mb())"
    assert 5 < printed_by(code) < held.nbytes / 1e6 / 1.5
