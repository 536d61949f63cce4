"""Every plan computes what Algorithm 1 as printed computes, in float64."""

import jax
import numpy as np
import pytest

from fedvlr_jax.federated.algorithm1 import play_round
from fedvlr_jax.federated.round import make_round
from tests.federated.cases import assert_close, plans_of, random_state, random_task

pytestmark = pytest.mark.usefixtures("double_precision")
PRINTED = dict(upload="gradient", loss="bce", clip_norm=0.0, history_weight=0.0)


@pytest.mark.parametrize(
    ("backbone", "fusion", "negatives"),
    [
        ("fcf", "bilevel", "sampled"),
        ("fcf", "vbpr", "expected"),
        ("fedavg", "bilevel", "expected"),
        ("fedncf", "mlp", "sampled"),
        ("pfedrec", "none", "expected"),
        ("fedrap", "bilevel", "expected"),
        pytest.param("fedrap", "mlp", "sampled", marks=pytest.mark.slow),
    ],
)
def test_every_plan_is_algorithm_1(backbone, fusion, negatives):
    rng = np.random.default_rng(3)
    choices = dict(backbone=backbone, fusion=fusion, negatives=negatives)
    task = random_task(rng, **choices, **PRINTED)
    server, private, cohort, features = random_state(rng, task, 3)
    rates = task.config.federation.rates
    clients = cohort.histories.client.tolist()
    rows = {u: jax.tree.map(lambda x, u=u: x[u], private) for u in clients}
    expected, after = play_round(task, features, server, rows, cohort, rates)
    after = jax.tree.map(lambda *each: np.stack(each), *(after[u] for u in clients))
    for plan in plans_of(task):
        play = jax.jit(make_round(task, plan))
        found, (found_rows,), _ = play(server, (private,), (cohort,), features, rates)
        assert found.round == expected.round
        assert_close(found.shared, expected.shared)
        assert_close(found.optimizer, expected.optimizer)
        assert_close(found_rows, after)
