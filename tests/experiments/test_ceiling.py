import numpy as np
import pytest

from fedvlr_jax.commands.ceiling import preferences
from tests.experiments.commands import refused


def test_sources_that_explain_an_item_alone_are_counted():
    """Six items of the first source and two of the second: Dirichlet(1/2 + 6, 1/2 + 2, 1/2)."""
    first, second = np.repeat([1.0, 0.0], [6, 2]), np.repeat([0.0, 1.0], [6, 2])
    never = np.zeros((1, 8))
    found = preferences([first[None], second[None], never], np.random.default_rng(0))
    np.testing.assert_allclose(found, np.array([6.5, 2.5, 0.5]) / 9.5)


def test_the_favourites_that_explain_the_history_are_found():
    """Of two pairs of favourites the first explains all items much better than the rest does."""
    chance = np.array([[0.5] * 20, [1e-6] * 20])
    other = np.full((1, 20), 1e-3)
    found = preferences([chance, other, other], np.random.default_rng(0))
    assert found[0] == pytest.approx(20.5 / 21.5, abs=0.02)


def test_no_flag_of_the_order_is_accepted(run):
    # The posterior does not read the times of the items.
    assert "Unknown command line flag 'permute_order'" in refused(
        run("ceiling", "--permute_order=1")
    )
