"""Saves are as far apart as their price asks, and no further."""

import math
from types import SimpleNamespace

import pytest

from fedvlr_jax.commands.one_run import saving
from fedvlr_jax.commands.one_run.saving import LONGEST_REST_S, Saver, rest_s
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.training import RunState


def after(rounds):
    state = SimpleNamespace(server=SimpleNamespace(round=rounds))
    return RunState(state, state, 0, (), None, "")


class Clocked:
    """A saver of a run whose clock and whose saves do as they are told."""

    def __init__(self, monkeypatch, **flags):
        clock = SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(saving, "time", clock)
        simulation = SimpleNamespace(
            config=Config.from_flat(**flags),
            dataset=SimpleNamespace(fingerprint=""),
            initial=SimpleNamespace(client_shapes={}),
            pack=lambda state, with_rows: {"private": {}},
        )
        # Long before the rounds that the tests train: the first save is due.
        self.now, self.ended, self.saved = -1000.0, None, []
        self.saver = Saver(simulation, self, after(0))

    def save(self, round_number, tree, meta, score):
        self.saved.append(round_number)
        self.ended = None

    def wait(self):
        pass

    def train(self, rounds, now):
        self.now = now
        self.saver.after_rounds(after(rounds))
        return self.saved


def test_a_rest_is_the_cost_by_its_share_and_never_over_a_minute():
    assert rest_s(0.25, 0.125) == 2.0
    # 10 s / 0.03 would be 333 s.
    assert rest_s(10.0, 0.03) == LONGEST_REST_S


def test_the_next_save_waits_until_the_last_one_is_paid(monkeypatch):
    run = Clocked(monkeypatch, checkpoint_every=1, checkpoint_share=0.25)
    assert run.train(1, now=0.0) == [1]
    # Under way, however long it takes.
    assert run.train(2, now=100.0) == [1]
    # It took 2 s from 0 s on: a quarter of 8 s.
    run.ended = 2.0
    assert run.train(3, now=7.9) == [1]
    assert run.train(4, now=8.0) == [1, 4]
    # This one took 20 s: a quarter of 80 s, but a minute is the longest.
    run.ended = 28.0
    assert run.train(5, now=67.9) == [1, 4]
    assert run.train(6, now=68.0) == [1, 4, 6]


def test_the_first_save_waits_for_the_price_it_is_taken_to_have(monkeypatch):
    monkeypatch.setattr("fedvlr_jax.commands.one_run.saving.FIRST_SAVE_S", 0.1)
    run = Clocked(monkeypatch, checkpoint_every=1, checkpoint_share=0.025)
    # A fortieth of 4 s, from the beginning of the run.
    assert run.train(1, now=-996.1) == []
    assert run.train(2, now=-995.9) == [2]


def test_saves_follow_the_flags(monkeypatch):
    run = Clocked(monkeypatch, checkpoint_every=10, checkpoint_share=0.25)
    assert run.train(9, now=0.0) == []
    assert run.train(12, now=1.0) == [12]
    run.ended = 2.0
    assert run.train(19, now=50.0) == [12]
    assert run.train(20, now=50.0) == [12, 20]


def test_a_share_of_one_is_to_the_letter(monkeypatch):
    run = Clocked(monkeypatch, checkpoint_every=2, checkpoint_share=1.0)
    for rounds in range(1, 8):
        run.train(rounds, now=0.0)
    assert run.saved == [2, 4, 6]


@pytest.mark.parametrize("share", [1e-9, 1.0])
def test_the_end_is_always_saved_once(share, monkeypatch):
    run = Clocked(monkeypatch, checkpoint_every=1, checkpoint_share=share)
    run.train(1, now=0.0)
    for _ in range(2):
        run.saver.finish(after(2))
    assert run.saved == [1, 2]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, math.nan, math.inf])
def test_a_share_that_is_none_is_refused_by_name(share):
    with pytest.raises(InputError, match=r"checkpoint_share=.*above 0 and at most 1"):
        Config.from_flat(checkpoint_share=share)
