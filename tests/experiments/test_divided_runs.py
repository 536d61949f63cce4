"""A run divided into starts ends as one start does: evaluations, selection, patience, states."""

import itertools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlr_jax import training
from fedvlr_jax.commands.one_run.saving import Saver, load_run
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.selection import Selection
from fedvlr_jax.simulation import State
from fedvlr_jax.trees import named_leaves
from fedvlr_jax.types import METRIC_TYPES, RoundMetrics, ServerState

MOST_ROUNDS = 16


class Trained:
    """A simulation whose state is the number of its round, and whose NDCG@50 is a table's.

    As the real one it uses up the state that it is given: here it fills it with -1.
    """

    def __init__(self, scores, **flags):
        self.config = Config.from_flat(**flags)
        self.dataset, self.selection = SimpleNamespace(fingerprint=""), Selection("all", "ndcg", 50)
        self.model = SimpleNamespace(backbone=SimpleNamespace(item_rows=None))
        self.initial = SimpleNamespace(client_shapes={})
        self._scores = scores

    def init(self):
        server = ServerState(np.zeros((), np.int32), None, {"items": np.zeros(2)}, None)
        return State(server, np.zeros(3))

    def run_rounds(self, state, num_rounds):
        first = int(state.server.round)
        assert np.all(state.private == first) and np.all(state.server.shared["items"] == first)
        new = jax.tree.map(lambda leaf: np.array(leaf + num_rounds, leaf.dtype), state)
        for leaf in jax.tree.leaves(state):
            leaf[...] = -1
        of_round = np.arange(first, first + num_rounds)
        columns = {name: of_round.astype(kind) for name, kind in METRIC_TYPES.items()}
        return new, RoundMetrics(**columns | {"participants": of_round.astype(np.int32) + 1})

    def evaluate(self, state, part):
        return SimpleNamespace(ahead=float(self._scores[int(state.server.round)]), tied=None)

    def pack(self, state, with_rows):
        return state._asdict()

    def packed_shapes(self, leaves, part):
        return part

    def unpack(self, packed):
        return State(**packed)


class Disk:
    """Checkpoints in memory: everything is copied, what is JSON goes through it."""

    def __init__(self):
        self.newest = None

    def save(self, round_number, tree, meta, score):
        leaves = {name: [] for name in named_leaves(tree)}
        meta = json.loads(json.dumps({**meta, "leaves": leaves}))
        states = {id(state): state for state in tree.values()}
        assert len(states) <= 2, "a checkpoint holds two states at most"
        self.newest, self._tree, self._meta = round_number, tree, meta
        self._tree = jax.tree.map(lambda leaf: leaf.copy(), tree)

    def wait(self):
        pass

    def read_meta(self, round_number):
        return self._meta

    def load(self, round_number, like):
        (part,) = like
        return {part: jax.tree.map(lambda leaf: leaf.copy(), self._tree[part])}


def start_again(simulation, disk, pieces=None):
    """One start of the run on `disk`, left after some pieces of a block; what it came to."""
    run = None if disk.newest is None else load_run(simulation, disk, disk.newest)
    # What the saver has at first is what is on the disk.
    saver = Saver(simulation, disk, run or training.new_run(simulation))
    asked = itertools.count()
    leave = lambda: pieces is not None and next(asked) >= pieces
    run, _ = training.train(simulation, run, leave=leave)
    saver.finish(run)
    return load_run(simulation, disk, disk.newest)._replace(stopped=run.stopped)


def outcome(run):
    """All of a run, comparable."""
    values = lambda state: [leaf.tolist() for leaf in jax.tree.leaves(state)]
    since = None if run.since is None else [column.tolist() for column in run.since]
    before = run.before_end
    return (
        *(run.evaluations, run.best_round, run.stopped, since),
        *(values(run.state), values(run.best_state)),
        before and (before.best_round, values(before.best_state), before.evaluations),
    )


starts = st.lists(
    st.tuples(
        st.integers(1, MOST_ROUNDS),  # --rounds
        st.integers(0, 3),  # --patience
        st.none() | st.integers(0, 5),  # pieces before it is left
    ),
    max_size=4,
)


@pytest.fixture(autouse=True, scope="module")
def a_piece_is_a_round():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedvlr_jax.training.loop.PIECE_S", 0.0)
        patch.setattr("fedvlr_jax.training.loop.check_type", lambda *_: None)
        patch.setattr("fedvlr_jax.training.loop.averages", lambda ahead, *_: {"ndcg@50": ahead})
        yield


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    scores=st.lists(st.integers(0, 4), min_size=MOST_ROUNDS + 1, max_size=MOST_ROUNDS + 1),
    eval_every=st.integers(1, 5),
    rounds=st.integers(1, MOST_ROUNDS),
    patience=st.integers(0, 3),
    earlier=starts,
)
def test_a_divided_run_is_the_run_of_one_start(scores, eval_every, rounds, patience, earlier):
    def simulation(rounds, patience):
        return Trained(scores, eval_every=eval_every, rounds=rounds, patience=patience)

    once = start_again(simulation(rounds, patience), Disk())
    assert np.all(once.best_state.private == once.best_round)
    disk = Disk()
    for flags in earlier:
        try:
            start_again(simulation(*flags[:2]), disk, flags[2])
        except InputError:
            # Refused only where this start alone ends before the rounds that are trained.
            assert start_again(simulation(*flags[:2]), Disk()).round < disk.newest
    if disk.newest is not None and disk.newest > once.round:
        with pytest.raises(InputError, match=r"has trained \d+ rounds"):
            start_again(simulation(rounds, patience), disk)
    else:
        assert outcome(start_again(simulation(rounds, patience), disk)) == outcome(once)
