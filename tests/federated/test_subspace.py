"""The leading eigenvectors from products with a basis, against a dense decomposition."""

import numpy as np
import pytest

from fedvlr_jax.federated.subspace import _spread, leading


# Of a matrix of rank 3, all products but three columns depend on the others.
@pytest.mark.parametrize("values", [np.logspace(3, -3, 60), np.array([5.0, 3.0, 1.0])])
def test_eigenvectors_of_products(values):
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.standard_normal((60, len(values))))[0]
    matrix = (vectors * values) @ vectors.T
    found, directions = leading(lambda basis: matrix @ basis, 60, 20, exchanges=8, width=6)
    np.testing.assert_allclose(found[: len(values)], values[:6], rtol=1e-5)
    np.testing.assert_allclose(found[len(values) :], 0, atol=1e-12)
    known = min(6, len(values))
    overlap = np.abs(np.sum(directions[:, :known] * vectors[:, :known], axis=0))
    np.testing.assert_allclose(overlap, 1, rtol=1e-6)
    np.testing.assert_allclose(directions.T @ directions, np.eye(6), atol=1e-12)


@pytest.mark.parametrize("apart", [1.0, 1e-3, 1e-5, 3e-8, 0.0])
def test_columns_that_nearly_depend_on_each_other_are_spread(apart):
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((200, 8))
    columns[:, 1] = columns[:, 0] + apart * columns[:, 1]
    basis = _spread(columns)
    np.testing.assert_allclose(basis.T @ basis, np.eye(8), atol=1e-3)
    np.testing.assert_allclose(basis @ (basis.T @ columns), columns, atol=1e-3)
