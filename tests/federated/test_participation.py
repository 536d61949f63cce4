"""Who is sampled, who answers and for how long; and the law of the noise that protects them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.federated.model import make_model
from fedvlr_jax.federated.participation import make_cohort, sampled_clients
from fedvlr_jax.federated.streams import INIT, seed_of, stream
from fedvlr_jax.types import Histories


def test_who_answers_and_for_how_long():
    n = 20_000
    histories = Histories(
        client=np.arange(n, dtype=np.int32),
        item=np.zeros((n, 1), np.int32),
        count=np.ones(n, np.int32),
    )
    config = Config.from_flat(client_dropout=0.3, local_epochs=4, min_local_epochs=2).federation
    key, sampled = jax.random.key(0), jnp.ones(n, bool)
    cohort = make_cohort(key, 0, histories, sampled, "equal", config)
    # Standard deviation of either share: 0.3 points.
    assert np.mean(cohort.responded) == pytest.approx(0.7, abs=0.015)
    shares = np.bincount(cohort.local_epochs)[2:] / n
    assert shares == pytest.approx([1 / 3] * 3, abs=0.015)
    # Another round is another draw, and whoever is not sampled does not answer.
    later = make_cohort(key, 1, histories, sampled, "equal", config)
    assert np.mean(cohort.responded == later.responded) == pytest.approx(0.58, abs=0.015)
    none = make_cohort(key, 0, histories, jnp.zeros(n, bool), "equal", config)
    assert not np.any(none.responded)


@pytest.mark.parametrize("backbone", ["fcf", "fedavg", "fedncf"])
def test_first_clients_draw_no_number_of_the_server(backbone):
    """The server splits the key of its draws, and the first keys of a split are those of clients 0,
    1 and 2. Each of them splits its key again, so no number is drawn twice."""
    config = Config.from_flat(backbone=backbone, fusion="bilevel", init="random", width=8)
    model = make_model(config.resolved, 40, {"text": 6})
    key = stream(jax.random.key(0), INIT)
    client = lambda number: stream(jax.random.key(0), INIT, number)
    data = lambda keys: [jax.random.key_data(k).tolist() for k in keys]
    assert data(jax.random.split(key, 3)) == data(map(client, range(3)))
    drawn = lambda tree: [
        np.ravel(x) for x in jax.tree.leaves(tree) if np.ptp(x) > 0 and x.size > 7
    ]
    shared = drawn(model.init_shared(key))
    own = [x for number in range(4) for x in drawn(model.init_private(client(number)))]
    assert shared and own
    for one in shared:
        for other in own:
            size = min(len(one), len(other))
            # Not even up to a scale: 8 independent numbers correlate so with a chance of 1e-9.
            assert abs(np.corrcoef(one[:size], other[:size])[0, 1]) < 0.999


def test_a_cohort_is_a_uniform_draw():
    draws = np.stack([sampled_clients(3, number, 20, 5) for number in range(4000)])
    assert all(len(set(draw)) == 5 for draw in draws.tolist())
    # Binomial(4000, 1/4): standard deviation 27.
    counts = np.bincount(draws.reshape(-1), minlength=20)
    assert np.all(np.abs(counts - 1000) < 5 * 27)
    assert not np.array_equal(draws[0], sampled_clients(4, 0, 20, 5))


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
def test_a_key_knows_its_seed(seed):
    assert seed_of(jax.random.key(np.uint32(seed))) == seed
