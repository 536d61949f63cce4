"""The shared mixture has the views of bilevel and one router for all clients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.fusion import make_fusion
from fedvlr_jax.simulation import make_simulation

WIDTHS = {"text": 3, "image": 4}


def fusion(name, views):
    return make_fusion(name, views=views, width=8, hidden=4, widths=WIDTHS)


def test_it_weighs_the_views_of_bilevel():
    rng = np.random.default_rng(0)
    items = jnp.asarray(rng.normal(size=(5, 8)), jnp.float32)
    features = {m: jnp.asarray(rng.normal(size=(5, d)), jnp.float32) for m, d in WIDTHS.items()}
    views = ("table", "text", "image")
    shared, bilevel = fusion("shared", views), fusion("bilevel", views)
    gamma = shared.init_shared(jax.random.key(0))
    weights = np.array([0.5, 0.3, 0.2], np.float32)
    gamma["logits"] = jnp.log(weights)
    expected = np.einsum("g,igd->id", weights, bilevel.views(gamma["of_views"], items, features))
    found = shared.views(gamma, items, features)
    assert found.shape == (5, 1, 8)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)


def test_it_starts_uniform_and_has_no_router():
    shared = fusion("shared", ("id", "text"))
    assert not shared.init_shared(jax.random.key(0))["logits"].any()
    assert shared.init_router(jax.random.key(0)) == {}
    assert shared.zero_content_views is None and shared.table_weight == 0.5


@pytest.mark.parametrize("name", ["shared", "bilevel"])
def test_a_closed_form_scores_alike_with_either(name):
    data = load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 60})
    options = dict(width=8, init="spectral", views="table,text,image", baselines=False)
    simulation = make_simulation(Config.from_flat(fusion=name, **options), data)
    plain = make_simulation(Config.from_flat(fusion="none", **options), data)
    scores = [s.recommend(s.init(seed=0), 10)[1] for s in (simulation, plain)]
    np.testing.assert_allclose(*scores, rtol=1e-4)
