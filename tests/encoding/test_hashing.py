"""The text baseline that needs no model."""

import numpy as np

from fedvlr_jax.encoding.hashing import hashed_rows, words

TITLES = [
    *("red river stone", "Red River Stone!", "blue light music", "blue light", "quiet ocean glass"),
    *("quiet ocean night", "", "!!!"),
]


def test_words():
    assert words("Café au Lait, No. 5") == ["café", "au", "lait", "no", "5"]
    assert words("标题 one") == ["标", "题", "one"]


def test_rows_say_which_titles_share_words():
    rows = hashed_rows(TITLES, 4)
    likeness = rows @ rows.T
    np.testing.assert_allclose(likeness[0, 1], 1, atol=1e-5)
    assert likeness[2, 3] > 0.5 > abs(likeness[2, 0]) and likeness[4, 5] > 0.5
    assert not rows[6:].any()
    np.testing.assert_allclose(np.linalg.norm(rows[:6], axis=1), 1, rtol=1e-5)


def test_a_word_of_every_title_says_less():
    common = hashed_rows([f"the word{n}" for n in range(20)] + ["the river", "quiet river"], 30)
    river, the = common[20] @ common[21], common[20] @ common[0]
    assert river > 2 * the > 0


def test_equal_titles_give_equal_bits():
    assert np.array_equal(hashed_rows(TITLES, 4), hashed_rows(list(TITLES), 4))


def test_few_titles():
    assert hashed_rows(["a"], 8).shape[0] == 1
    assert hashed_rows(["", ""], 8).shape[0] == 2 and not hashed_rows(["", ""], 8).any()
    assert hashed_rows(["a b", "a c"], 8).shape == (2, 2)
