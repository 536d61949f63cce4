"""Pairs of chunks: hand-computed, restored to the order of the part, and with minimal length."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.pairs import chunk_lists, in_part_order


def interactions(rows, num_items):
    user = [u for u, row in enumerate(rows) for _ in row]
    item = [i for row in rows for i in row]
    return Interactions.from_pairs(user=user, item=item, num_users=len(rows), num_items=num_items)


def test_two_chunks_of_two_parts_by_hand():
    one = interactions([[4, 2], [], [0]], 5)
    other = interactions([[3], [1], [1, 2, 4]], 5)
    # Chunk 0 has the users 2 and 1; chunk 1 has the user 0 and a padding row.
    lists, others = chunk_lists([one, other], np.array([2, 1, 0, 3]), np.array([0, 2, 4]))
    # The largest chunk has four entries: those of users 2 and 1 in the other part.
    assert lists.pairs.item.tolist() == [[0, 5, 5, 5], [2, 4, 5, 5]]
    assert lists.pairs.client.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert lists.entry.tolist() == [[2, -1, -1, -1], [0, 1, -1, -1]]
    assert others.pairs.item.tolist() == [[1, 2, 4, 1], [3, 5, 5, 5]]
    assert others.pairs.client.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert others.entry.tolist() == [[2, 3, 4, 1], [0, -1, -1, -1]]
    assert lists.pairs.item.dtype == lists.pairs.client.dtype == np.int32


def test_a_part_without_entries_is_one_place_of_padding():
    (lists,) = chunk_lists([interactions([[], []], 3)], np.arange(2), np.array([0, 1, 2]))
    assert lists.pairs.item.tolist() == [[3], [3]] and lists.entry.tolist() == [[-1], [-1]]
    assert in_part_order([lists.entry], [np.zeros(2, np.int32)], 0).shape == (0,)


@st.composite
def layouts(draw):
    """A part, and its users in any order, in two buckets with padding rows, divided into chunks."""
    rows = draw(st.lists(st.sets(st.integers(0, 6)), min_size=2, max_size=9))
    order = draw(st.permutations(range(len(rows))))
    cut = draw(st.integers(1, len(rows) - 1))
    buckets = []
    for users in (order[:cut], order[cut:]):
        clients = np.array([*users, *[len(rows)] * draw(st.integers(0, 3))])
        size = draw(st.integers(1, len(clients)))
        bounds = np.append(np.arange(0, len(clients), size), len(clients))
        buckets.append((clients, bounds))
    return interactions(rows, 7), buckets


@settings(max_examples=60, deadline=None, derandomize=True)
@given(layout=layouts())
def test_every_entry_is_in_the_chunk_of_its_user_once(layout):
    part, buckets = layout
    entries, users, items = [], [], []
    for clients, bounds in buckets:
        (lists,) = chunk_lists([part], clients, bounds)
        entries.append(lists.entry)
        users.append(clients[bounds[:-1, None] + lists.pairs.client])
        items.append(lists.pairs.item)
    np.testing.assert_array_equal(in_part_order(entries, users, len(part)), part.users)
    np.testing.assert_array_equal(in_part_order(entries, items, len(part)), part.item)
    assert sum((entry >= 0).sum() for entry in entries) == len(part)


def test_one_long_list_adds_its_own_length_alone():
    rows = [[0]] * 1000
    rows[500] = range(2000)
    part = interactions(rows, 4000)
    (lists,) = chunk_lists([part], np.arange(1000), np.array([0, 1000]))
    assert lists.entry.size == len(part) == 2999
