"""The compiled round against the literal one, over random small configurations."""

import itertools

import jax
import numpy as np
import pytest

from fedvlr_jax.config import BACKBONE_NAMES, FUSION_NAMES
from fedvlr_jax.federated.round import make_round
from tests.federated.cases import assert_close, plans_of, random_state, random_task
from tests.federated.oracle import make_literal_round

pytestmark = pytest.mark.usefixtures("double_precision")
WAYS = list(itertools.product(("gradient", "delta"), ("sampled", "expected")))
# vbpr differs from mlp in the views alone, which do not see how clients train.
FEWER = {"vbpr": [("gradient", "expected"), ("delta", "sampled")]}
COMBINATIONS = [
    (backbone, fusion, *way)
    for backbone, fusion in itertools.product(BACKBONE_NAMES, FUSION_NAMES)
    for way in FEWER.get(fusion, WAYS)
]
# Two random tasks each, two random states and cohorts for each.
TASKS, STATES = 2, 2
CASES = [
    (*combination, variant)
    for combination in COMBINATIONS
    for variant in range(1 if combination[1] in FEWER else TASKS)
]


@pytest.mark.parametrize(("backbone", "fusion", "upload", "negatives", "variant"), CASES)
def test_round_is_algorithm_1(backbone, fusion, upload, negatives, variant):
    seed = COMBINATIONS.index((backbone, fusion, upload, negatives))
    rng = np.random.default_rng([seed, variant])
    choices = dict(backbone=backbone, fusion=fusion, upload=upload, negatives=negatives)
    if backbone == "fedrap" and variant == 0:
        # What its own plan can train.
        choices |= dict(clip_norm=0.0, history_weight=0.0, recency=0.0)
    task = random_task(rng, **choices)
    num_clients = int(rng.integers(2, 5))
    literal_round = make_literal_round(task)
    rounds = [jax.jit(make_round(task, plan)) for plan in plans_of(task)]
    for _ in range(STATES):
        server, private, cohort, features = random_state(rng, task, num_clients)
        rows = [jax.tree.map(lambda x, u=u: x[u], private) for u in range(num_clients)]
        expected, expected_rows = literal_round(server, rows, cohort, features)
        expected_private = jax.tree.map(lambda *x: np.stack(x), *expected_rows)
        losses = []
        for round_fn in rounds:
            new, (new_private,), metrics = round_fn(
                server, (private,), (cohort,), features, task.config.federation.rates
            )
            assert metrics.finite
            losses.append(metrics.loss)
            assert_close(metrics.loss, losses[0])
            assert int(new.round) == int(server.round) + 1
            assert_close(new.shared, expected.shared)
            assert_close(new_private, expected_private)
            for u in np.flatnonzero(~np.asarray(cohort.present)):
                pairs = zip(jax.tree.leaves(new_private), jax.tree.leaves(private), strict=True)
                assert all(after[u].tobytes() == before[u].tobytes() for after, before in pairs)
