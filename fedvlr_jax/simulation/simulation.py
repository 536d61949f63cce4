"""A data set, a model and a federation put together: the functions a researcher calls.

simulation = make_simulation(config, dataset)
state = simulation.init()
state, metrics = simulation.run_rounds(state, 20)
ranks = simulation.evaluate(state, "valid")
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedvlr_jax.attacks import Hostile
from fedvlr_jax.config import Config, check_choice
from fedvlr_jax.config.magnitudes import what_to_lower
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError, NonFiniteError
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.evaluation.selection import resolve_selection
from fedvlr_jax.federated.aggregator import Aggregator
from fedvlr_jax.federated.local import Task
from fedvlr_jax.federated.model import Model
from fedvlr_jax.fleet import Participation, make_participation
from fedvlr_jax.fusion import Fusion
from fedvlr_jax.models import Backbone
from fedvlr_jax.selection import Selection
from fedvlr_jax.settings import under_own_settings
from fedvlr_jax.simulation.buckets import in_user_order
from fedvlr_jax.simulation.engine import Engine
from fedvlr_jax.simulation.offloaded import make_offloaded
from fedvlr_jax.simulation.on_device import OnDevice, make_on_device
from fedvlr_jax.simulation.sampling import Sampling
from fedvlr_jax.simulation.setup import OwnParts, Setup, make_setup
from fedvlr_jax.simulation.state import InitialState, State
from fedvlr_jax.simulation.workload import work_of
from fedvlr_jax.types import PyTree, RoundMetrics


@dataclasses.dataclass(frozen=True, eq=False)
class Simulation:
    """A federation over one data set; made by `make_simulation`.

    Attributes:
      setup: data, model, plan and buckets.
      initial: the state before the first round, and the shapes of a state.
      sampling: which clients each round samples.
      engine: the place of the clients' private rows (--store), and the rounds that run there.
    """

    setup: Setup
    initial: InitialState
    sampling: Sampling
    engine: Engine

    @property
    def config(self) -> Config:
        """The choices of the run."""
        return self.setup.config

    @property
    def dataset(self) -> Dataset:
        """The users; the recommendations and ranks of hostile clients come behind theirs."""
        return self.setup.dataset

    @property
    def population(self) -> Dataset:
        """The clients: the users of `dataset`, and behind them the hostile clients."""
        return self.setup.population

    @property
    def model(self) -> Model:
        """The backbone behind the fusion."""
        return self.setup.model

    @property
    def task(self) -> Task:
        """The inputs of a plan: model, choices, negatives and the server's rule."""
        return self.setup.task

    @property
    def plan(self) -> str:
        """A name of `plans.PLANS`: how local epochs are executed."""
        return self.setup.plan

    @property
    def features(self) -> Mapping[str, jax.Array]:
        """{modality: float32 [I, d_m]}, on every device."""
        return self.setup.features

    @property
    def buckets(self) -> tuple[np.ndarray, ...]:
        """int64 [n_b] each, the user indices of each bucket; together every user once."""
        return self.setup.buckets

    @property
    def hostile(self) -> Hostile | None:
        """The hostile clients, who are the last of `population`; None without them."""
        return self.setup.hostile

    @property
    def participation(self) -> Participation | None:
        """The simulated clock; None where the compiled round draws who responds."""
        return self.sampling.participation

    @functools.cached_property
    def selection(self) -> Selection:
        """The validation metric that rounds are chosen by, its slice resolved for the data set."""
        return resolve_selection(self.config.evaluation.selection, self.dataset)

    @property
    def state_bytes(self) -> int:
        """Bytes of a state (an early-stopping run holds two)."""
        return self.engine.state_bytes

    @property
    def on_device(self) -> OnDevice:
        """The engine of --store=device, with its pure functions of arrays on the devices.

        Raises:
          InputError: the private rows are elsewhere.
        """
        if not isinstance(self.engine, OnDevice):
            raise InputError(
                f"--store={self.config.run.store}: this needs every client on the devices; give "
                "--store=device"
            )
        return self.engine

    def init(self, seed: int | None = None) -> State:
        """The state before the first round; `seed` defaults to the config's.

        Raises:
          InputError: a seed that is no value of the option `seed`.
        """
        if seed is not None:
            seed = dataclasses.replace(self.config.run, seed=seed).seed
        return self.engine.init(seed)

    def run_rounds(self, state: State, num_rounds: int) -> tuple[State, RoundMetrics]:
        """Runs rounds. It donates the state that it is given: use the one that it returns.

        The division of rounds into calls changes no bit.

        Returns:
          The new state, and the metrics of each round as NumPy arrays [num_rounds].

        Raises:
          InputError: num_rounds is no whole number of at least 1, or the state was given to
            `run_rounds` before.
          NonFiniteError: a loss or an update was not finite. The error carries the state
            before that round as `.state`.
        """
        check_state(state)
        if not isinstance(num_rounds, int | np.integer) or num_rounds < 1:
            raise InputError(f"num_rounds={num_rounds}: give a whole number of at least 1")
        return self.engine.run_rounds(state, int(num_rounds))

    def evaluate(self, state: State, split: str) -> Ranks:
        """Ranks of every user's held-out items of "valid" or "test" among all items.

        The user's train items are masked and, for "test" under the strict protocol, its
        validation items. With hostile clients, "promoted" ranks their targets for the users who
        have them neither in train nor in validation, and masks the items of both.

        Returns:
          `Ranks` of NumPy arrays: ahead, tied int32 [P] in the order of the split, finite
          bool [N].

        Raises:
          InputError: an unknown split, or a state that was given to `run_rounds` before.
          NonFiniteError: a score was not finite.
        """
        return self.ranks_and_weights(state, split)[0]

    def ranks_and_weights(self, state: State, split: str) -> tuple[Ranks, np.ndarray]:
        """The results of `evaluate` and `router_weights`, in one pass over the clients.

        Raises:
          NonFiniteError: a score was not finite.
        """
        ranks, weights = self._rank(state, split)
        if not ranks.finite.all():
            raise NonFiniteError(
                f"round {int(jax.device_get(state.server.round))}: the scores of client "
                f"{int(np.argmin(ranks.finite))} are not finite; {what_to_lower(self.config)}",
                state,
            )
        return ranks, weights

    def router_weights(self, state: State) -> np.ndarray:
        """float32 [N, G]: every user's weights over the views `model.fusion.names`."""
        return self._rank(state, "valid")[1]

    def _rank(self, state: State, split: str) -> tuple[Ranks, np.ndarray]:
        """`ranks_and_weights`, finite or not."""
        check_choice("split", split, tuple(self.engine.evaluation.parts))
        check_state(state)
        return self.engine.evaluation.joined(split, self.engine.rank(state, split))

    def recommend(self, state: State, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of every user that are in neither its train nor its validation items.

        Returns:
          (items int32 [N, k], scores float32 [N, k]), best first; a place without a
          candidate left has score -inf.

        Raises:
          InputError: k is below 1 or above the number of items, or the state was given to
            `run_rounds` before.
        """
        self.check_places(k)
        check_state(state)
        scores, items = in_user_order(self.buckets, self.engine.recommend(state, k))
        return items, scores

    def check_places(self, k: int) -> None:
        """Raises InputError for a number of places that `recommend` cannot fill."""
        if not 1 <= k <= self.dataset.num_items:
            raise InputError(f"--k={k}: give 1 to {self.dataset.num_items}, the number of items")

    def pack(self, state: State, *, with_rows: bool = True) -> PyTree:
        """The state in host memory, the same on any devices and from any store.

        Args:
          with_rows: False leaves out the private item rows, for `remaking.py`.

        Returns:
          {"server": ServerState, "clients": int32 [T], "private": leaves [T, ...]}: rows of
          the clients that have one of their own, in host memory.
        """
        return self.engine.pack(state, with_rows)

    def packed_shapes(self, leaves: Mapping[str, Sequence[Any]], name: str) -> PyTree:
        """Shapes and dtypes of the packed state `name` of a checkpoint.

        Args:
          leaves: {leaf name: (shape, dtype)}, as the checkpoint's meta lists them.
          name: of the state in the checkpoint, such as "state" or "best".
        """
        return self.engine.packed_shapes(leaves, name)

    def unpack(self, packed: PyTree) -> State:
        """The state that was packed, by this simulation or by one with another store.

        Args:
          packed: as `pack` returns it; a client without a row gets its initial one.
        """
        return self.engine.unpack(packed)


def check_type(name: str, value: object, kind: type) -> None:
    """Raises InputError if an argument is not of a public class."""
    if not isinstance(value, kind):
        found = type(value).__name__
        raise InputError(f"{name}: found {found}, expected fedvlr_jax.{kind.__name__}")


def check_state(state: State) -> None:
    """Raises InputError for what is no state, or has been donated."""
    check_type("state", state, State)
    number = state.server.round
    if isinstance(number, jax.Array) and number.is_deleted():
        raise InputError(
            "state: was given to run_rounds before, which reuses its memory; use the state that "
            "it returned"
        )


@under_own_settings
def make_simulation(
    config: Config,
    dataset: Dataset,
    *,
    backbone: Backbone | None = None,
    fusion: Fusion | None = None,
    aggregator: Aggregator | None = None,
    participation: Participation | None = None,
) -> Simulation:
    """Prepares `dataset` for the federation that `config` describes.

    With --attack, hostile clients join the population behind the users. The closed form of --init
    and --init_router is computed here, not in `init`: it can weigh the histories that training
    uses, and it is the same for every seed, except under --privacy. It takes seconds on the host
    for 1,000 clients and longer for more (docs/scaling.md). `auto`, the default of --init, is such
    a form for a plain federation, and random with any part of your own; init="random" takes no
    time.

    Args:
      config: the options; every `auto` is resolved here. dataset: the users and items.
      backbone, fusion: in place of those that `config` names; summaries name them "own".
      aggregator: the server's treatment of the uploads, in place of the choices of `config` for
        clipping, noise, aggregation and the server's optimizer.
      participation: which clients take part in each round, in place of the flags' simulated clock.

    Returns:
      The simulation, with all data on the devices; its compiled functions compile when they are
      first called.

    Raises:
      InputError: choices that do not fit the data set, a closed form that does not fit into the
        memory or is not finite, or an argument of another type.
    """
    check_type("config", config, Config)
    check_type("dataset", dataset, Dataset)
    for name, part, kind in (
        ("backbone", backbone, Backbone),
        ("fusion", fusion, Fusion),
        ("aggregator", aggregator, Aggregator),
    ):
        if part is not None:
            check_type(name, part, kind)
    setup = make_setup(config, dataset, OwnParts(backbone, fusion, aggregator, participation))
    config = setup.config
    if participation is None and config.fleet.has_clock:
        participation = make_participation(config, setup.population, work_of(setup))
    sampling = Sampling(config, setup.buckets, participation)
    make_engine = make_on_device if config.run.store == "device" else make_offloaded
    initial = InitialState(setup)
    return Simulation(setup, initial, sampling, make_engine(setup, initial, sampling))
