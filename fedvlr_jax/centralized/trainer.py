"""Trains a centralized model with Adam and keeps the best epoch on validation.

All random numbers derive from (seed, epoch, step). An epoch is one compiled scan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedvlr_jax.centralized.model import CentralizedModel
from fedvlr_jax.centralized.registry import CENTRALIZED
from fedvlr_jax.centralized.sampling import Batches, epoch_order
from fedvlr_jax.config import EvaluationConfig
from fedvlr_jax.config.centralized import CentralizedConfig
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.baselines import rank
from fedvlr_jax.evaluation.metrics import averages
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.evaluation.selection import resolve_selection
from fedvlr_jax.settings import compiled, key_of, under_own_settings
from fedvlr_jax.types import PyTree

# The learning rates that tuning tries, for every model.
LEARNING_RATES = (1e-3, 3e-3, 1e-2)

# Streams of random numbers: those of a seed, and those of an epoch.
_INIT, _EPOCHS = range(2)
_ORDER, _PREPARE, _STEPS = range(3)


class CentralizedResult(NamedTuple):
    """Result of one training.

    Attributes:
      ranks: {"valid": Ranks, "test": Ranks} of all users at the best epoch, NumPy arrays.
      best_epoch: the first epoch with the highest value of the selection on validation; 0 if no
        evaluation had a value (`ranks` is then empty).
      epochs_run: the number of trained epochs.
      evaluations: {"round", "loss", "valid", "best_round"} of each evaluation, as in a federated
        run; "round" is the epoch, and "loss" the mean loss of that epoch.
      stopped: "rounds", "patience", or "diverged".
    """

    ranks: dict[str, Ranks]
    best_epoch: int
    epochs_run: int
    evaluations: tuple[dict[str, Any], ...]
    stopped: str


class Trainer(NamedTuple):
    """A model for one data set.

    Attributes:
      model: the model.
      fit: (seed, learning_rate, weights) -> CentralizedResult. Only the first call compiles.
        Raises InputError for a weight that the model does not have.
    """

    model: CentralizedModel
    fit: Callable[[int, float, Mapping[str, float]], CentralizedResult]


class _State(NamedTuple):
    params: PyTree
    optimizer: PyTree


def make_epoch(
    model: CentralizedModel, batches: Batches
) -> Callable[..., tuple[_State, jax.Array]]:
    """(state, data, arrays of the batches, key of the seed, epoch, learning rate) ->
    (state, mean loss), pure."""
    adam = optax.scale_by_adam()

    def epoch(state, data, arrays, key, number, learning_rate):
        key = jax.random.fold_in(key, number)
        data = model.prepare(data, jax.random.fold_in(key, _PREPARE))
        order = epoch_order(jax.random.fold_in(key, _ORDER), batches.rows, batches.size)
        steps_key = jax.random.fold_in(key, _STEPS)

        def step(state, inputs):
            place, rows = inputs
            sample_key, loss_key = jax.random.split(jax.random.fold_in(steps_key, place))
            batch = batches.draw(sample_key, arrays, rows)
            loss, gradient = jax.value_and_grad(model.loss)(state.params, data, batch, loss_key)
            # Optax raises a float decay to an integer power, which strict promotion refuses.
            with jax.numpy_dtype_promotion("standard"):
                update, optimizer = adam.update(gradient, state.optimizer)
            params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, update)
            return _State(params, optimizer), loss

        state, losses = jax.lax.scan(step, state, (jnp.arange(len(order)), order))
        return state, jnp.mean(losses)

    return epoch


@under_own_settings
def make_centralized(
    config: CentralizedConfig, evaluation: EvaluationConfig, dataset: Dataset
) -> Trainer:
    """Prepares a model for training with any seed, learning rate and weights.

    Args:
      evaluation: the pool of negatives, mask, cut-offs, selection, `eval_every` and `patience`
        (both in epochs).

    Raises:
      InputError: the model cannot use the data, or the data set has no validation part.
    """
    if not len(dataset.valid):
        raise InputError(f"{dataset.name}: no validation interactions, so no epoch can be selected")
    selection = resolve_selection(evaluation.selection, dataset)
    model = CENTRALIZED[config.model](dataset, width=config.width)
    batches = model.batches(dataset.train, evaluation.negative_pool, config.batch_size)
    epoch = compiled(make_epoch(model, batches), donate_argnums=0)
    init, embeddings = compiled(model.init), compiled(model.embeddings)

    def ranks_of(vectors: tuple[np.ndarray, np.ndarray], part: str) -> Ranks:
        users, items = vectors
        return rank(lambda rows: users[rows] @ items.T, dataset, part, evaluation.mask)

    @under_own_settings
    def fit(seed: int, learning_rate: float, weights: Mapping[str, float]) -> CentralizedResult:
        data = {**model.data, "weights": _weights(config.model, model, weights)}
        key = key_of(seed)
        params = init(jax.random.fold_in(key, _INIT))
        state = _State(params, optax.scale_by_adam().init(params))
        epochs_key = jax.random.fold_in(key, _EPOCHS)
        rate = jnp.float32(learning_rate)
        highest, best_vectors, best, since_best = -1.0, None, 0, 0
        evaluations: list[dict[str, Any]] = []
        number, stopped = 0, "rounds"
        for number in range(1, config.epochs + 1):
            state, loss = epoch(state, data, batches.arrays, epochs_key, number, rate)
            if number % evaluation.eval_every and number < config.epochs:
                continue
            vectors = jax.device_get(embeddings(state.params, data))
            if not all(np.isfinite(v).all() for v in (*vectors, loss)):
                stopped = "diverged"
                break
            found = ranks_of(vectors, "valid")
            valid = averages(found.ahead, found.tied, dataset, "valid", evaluation.cutoffs)
            since_best += 1
            value = selection.value(valid)
            if value is not None and value > highest:
                highest, best_vectors = value, vectors
                best, since_best = number, 0
            evaluations.append(
                {"round": number, "loss": float(loss), "valid": valid, "best_round": best}
            )
            if evaluation.patience and since_best == evaluation.patience:
                stopped = "patience"
                break
        ranks = {}
        if best_vectors is not None:
            ranks = {part: ranks_of(best_vectors, part) for part in ("valid", "test")}
        return CentralizedResult(ranks, best, number, tuple(evaluations), stopped)

    return Trainer(model, fit)


def _weights(
    name: str, model: CentralizedModel, weights: Mapping[str, float]
) -> dict[str, jax.Array]:
    unknown = sorted(set(weights) - set(model.weights))
    if unknown:
        raise InputError(
            f"--weights: {name} has no {unknown[0]!r}; it has {', '.join(sorted(model.weights))}"
        )
    for key, limit in model.limits.items():
        if key in weights and not 0 <= weights[key] < limit:
            raise InputError(
                f"--weights={key}={weights[key]:g}: give at least 0 and less than {limit:g}"
            )
    return {name: jnp.float32(value) for name, value in {**model.weights, **weights}.items()}
