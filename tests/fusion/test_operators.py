"""The attention of the operators, on tokens so large that its scale and its axis matter."""

import jax
import numpy as np

from fedvlr_jax.fusion.operators import OPERATORS

ITEMS, WIDTH = 3, 4


def test_self_attention_against_a_literal_one():
    rng = np.random.default_rng(0)
    tokens = {name: 2 * rng.normal(size=(ITEMS, WIDTH)) for name in ("id", "text", "image")}
    tokens = {name: x.astype(np.float32) for name, x in tokens.items()}
    module = OPERATORS["attention"]()
    parameters = module.init(jax.random.key(0), tokens)
    found = module.apply(parameters, tokens)
    layers = jax.tree.map(np.float64, parameters["params"])
    dense = lambda name, x: x @ layers[name]["kernel"] + layers[name]["bias"]
    for item in range(ITEMS):
        x = np.stack([rows[item] for rows in tokens.values()]).astype(np.float64)
        query, key, value = (dense(name, x) for name in ("query", "key", "value"))
        weight = np.exp(query @ key.T / np.sqrt(WIDTH))
        mixed = np.mean(weight / weight.sum(axis=1, keepdims=True) @ value, axis=0)
        expected = (mixed - mixed.mean()) / np.sqrt(mixed.var() + 1e-6)
        np.testing.assert_allclose(found[item], expected, atol=1e-4)
