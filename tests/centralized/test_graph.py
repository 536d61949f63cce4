"""Propagation against dense matrix products, and the graphs by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.centralized.graph import (
    in_cheaper_form,
    interaction_graph,
    light_gcn,
    nearest_items,
    propagate,
    similarity_graph,
)
from fedvlr_jax.centralized.pgl import principal_subgraph
from fedvlr_jax.data.dataset import Interactions


def dense_of(graph, num_sources):
    matrix = np.zeros((graph.num_targets, num_sources))
    np.add.at(matrix, (np.asarray(graph.target), np.asarray(graph.source)), graph.weight)
    return matrix


def random_train(seed=0, num_users=13, num_items=17):
    """The last item has no interaction."""
    liked = np.random.default_rng(seed).random((num_users, num_items)) < 0.3
    liked[:, 0], liked[:, -1] = True, False
    user, item = np.nonzero(liked)
    train = Interactions.from_pairs(user=user, item=item, num_users=num_users, num_items=num_items)
    return train, liked.astype(float)


def test_the_interaction_graph_is_symmetrically_normalised():
    train, liked = random_train()
    degree_u, degree_i = liked.sum(axis=1), np.maximum(liked.sum(axis=0), 1)
    expected = liked / np.sqrt(degree_u[:, None] * degree_i[None, :])
    graph = interaction_graph(train)
    np.testing.assert_allclose(dense_of(graph.to_users, train.num_items), expected, rtol=1e-6)
    np.testing.assert_allclose(dense_of(graph.to_items, train.num_users), expected.T, rtol=1e-6)


def test_propagation_is_the_dense_matrix_product_and_so_is_its_gradient():
    train, _ = random_train()
    graph = interaction_graph(train).to_users
    matrix = dense_of(graph, train.num_items)
    x = np.random.default_rng(1).normal(size=(train.num_items, 4)).astype(np.float32)
    np.testing.assert_allclose(propagate(graph, x), matrix @ x, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(propagate(graph, x))))(x)
    np.testing.assert_allclose(gradient, matrix.T @ np.cos(matrix @ x), rtol=1e-5, atol=1e-6)


def test_a_small_graph_becomes_a_matrix_and_a_sparse_one_does_not():
    train, _ = random_train()
    edges = interaction_graph(train)
    matrices = in_cheaper_form(edges)
    np.testing.assert_array_equal(matrices.to_users, dense_of(edges.to_users, train.num_items))
    np.testing.assert_array_equal(matrices.to_items, matrices.to_users.T)
    # One interaction a user among 200 items: 200 entries an edge.
    everyone = np.arange(5)
    sparse = Interactions.from_pairs(user=everyone, item=everyone, num_users=5, num_items=200)
    assert in_cheaper_form(interaction_graph(sparse)).to_users.weight.shape == (5,)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_light_gcn_is_the_mean_of_powers_of_the_whole_adjacency(layers):
    train, _ = random_train()
    graph = interaction_graph(train)
    block = dense_of(graph.to_users, train.num_items)
    whole = np.block(
        [[np.zeros((13, 13)), block], [block.T, np.zeros((train.num_items, train.num_items))]]
    )
    x = np.random.default_rng(2).normal(size=(len(whole), 3)).astype(np.float32)
    mean = sum(np.linalg.matrix_power(whole, layer) @ x for layer in range(layers + 1))
    users, items = light_gcn(graph, x[:13], x[13:], layers)
    found = np.concatenate([users, items])
    np.testing.assert_allclose(found, mean / (layers + 1), rtol=1e-5, atol=1e-6)


def test_the_nearest_items_by_hand():
    feature = np.array([[1, 0], [2, 0.2], [0, 3], [0, 0], [-1, 0]])
    item, similarity = nearest_items(feature, 2)
    # Item 3 has no direction: every cosine is 0, and itself is sure to be kept.
    assert item[[0, 1, 2]].tolist() == [[0, 1], [0, 1], [1, 2]]
    assert 3 in item[3] and 4 in item[4]
    # cos(item 0, item 1) = 2 / sqrt(4.04).
    np.testing.assert_allclose(similarity[0], [1, 2 / np.sqrt(4.04)], rtol=1e-6)
    np.testing.assert_allclose(similarity[3], 0)
    assert nearest_items(feature, 9)[0].tolist() == [list(range(5))] * 5


def test_similarity_graphs_are_normalised_by_the_row_sums_of_what_was_kept():
    feature = np.random.default_rng(3).normal(size=(12, 5))
    item, similarity = nearest_items(feature, 4)
    for weighted in (True, False):
        kept = np.zeros((12, 12))
        weight = np.maximum(similarity, 0) if weighted else np.ones_like(similarity)
        np.put_along_axis(kept, item, weight, axis=1)
        row = kept.sum(axis=1)
        found = dense_of(similarity_graph(feature, 4, weighted=weighted), 12)
        np.testing.assert_allclose(found, kept / np.sqrt(row[:, None] * row[None, :]), rtol=1e-5)


def test_a_principal_subgraph_keeps_that_many_edges_and_prefers_the_unpopular():
    train, liked = random_train(num_users=40)
    graph = interaction_graph(train).to_users
    kept = len(train) // 3
    draw = jax.jit(lambda key: principal_subgraph(key, graph, train.num_items, kept))
    often = np.zeros_like(liked)
    for seed in range(60):
        side = draw(jax.random.key(seed))
        matrix = dense_of(side.to_users, train.num_items)
        assert (matrix > 0).sum() == kept and not (matrix > 0)[liked == 0].any()
        np.testing.assert_allclose(matrix, dense_of(side.to_items, 40).T)
        degree_u, degree_i = (matrix > 0).sum(axis=1), (matrix > 0).sum(axis=0)
        user, item = np.nonzero(matrix)
        np.testing.assert_allclose(matrix[user, item] ** -2, degree_u[user] * degree_i[item], 1e-5)
        often += matrix > 0
    # Everyone has item 0, a third of the users has each of the others.
    share = often.sum(axis=0)[:-1] / liked.sum(axis=0)[:-1]
    assert share[0] < 0.85 * share[1:].mean()
