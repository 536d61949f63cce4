"""The fixed parts of a simulation: data, model, plan and buckets, prepared before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from fedvlr_jax.attacks import Hostile, make_attack, plan_hostile, with_hostile
from fedvlr_jax.config import Config
from fedvlr_jax.config.automatic import resolved as resolved_auto
from fedvlr_jax.data.cohorts import bucket_clients, negative_pool
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.aggregator import Aggregator, make_aggregator
from fedvlr_jax.federated.devices import GROUPS, client_mesh, put, replicated_sharding
from fedvlr_jax.federated.initialization import (
    Initialization,
    check_initialization,
    make_initialization,
)
from fedvlr_jax.federated.local import Task
from fedvlr_jax.federated.matmul_precision import check_precision
from fedvlr_jax.federated.model import Model, make_model
from fedvlr_jax.federated.plans import choose_plan
from fedvlr_jax.fleet import make_participation
from fedvlr_jax.fleet.participation import Participation
from fedvlr_jax.fleet.work import Work
from fedvlr_jax.fusion import Fusion
from fedvlr_jax.models import Backbone
from fedvlr_jax.privacy.calibration import resolved
from fedvlr_jax.settings import compiled, key_of, shapes_of, under_own_settings

# Rows of one client's loss are counted in int32.
MOST_ROWS = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """The parts of a simulation that do not change while it runs.

    Attributes:
      config: the choices; those that --init and --privacy leave open are resolved here.
      dataset: the users; methods are compared on them.
      population: the clients: the users of `dataset` and, behind them, the hostile clients, who
        have nothing held out.
      task: the inputs of a plan: model, choices, negatives and the server's rule.
      buckets: int64 [n_b] each, the user indices of each bucket; together every user once.
      features: {modality: float32 [I, d_m]}, on every device.
      plan: a name of `plans.PLANS`: how local epochs are executed.
      initialization: the closed form that training begins with; None where all is drawn.
      train: the train part that the clients hold: that of `population`, its histories weighted
        by age where the initialization weights them.
      mesh: the devices that share the clients; None for one.
      hostile: the hostile clients; None without them.
    """

    config: Config
    dataset: Dataset
    population: Dataset
    task: Task
    buckets: tuple[np.ndarray, ...]
    features: dict[str, jax.Array]
    plan: str
    initialization: Initialization | None
    train: Interactions
    mesh: Mesh | None
    hostile: Hostile | None = None

    @property
    def model(self) -> Model:
        """The backbone behind the fusion."""
        return self.task.model

    @property
    def num_devices(self) -> int:
        """How many devices share the clients."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def exact(self) -> bool:
        """Whether 1, 2, 4 and 8 devices give the same bits (`Reduce.exact`)."""
        return self.task.aggregator.reduce.exact

    @property
    def num_parts(self) -> int:
        """The equal parts of a chunk: one a device or, if `exact`, the same for any number."""
        return GROUPS if self.exact else self.num_devices

    def compiled(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """`settings.compiled`, with equal bits for any number of devices if `exact`."""
        return compiled(function, as_written=self.exact, **options)


class OwnParts(NamedTuple):
    """The arguments of `make_simulation` that were made elsewhere; None for what the flags name."""

    backbone: Backbone | None = None
    fusion: Fusion | None = None
    aggregator: Aggregator | None = None
    participation: Participation | None = None


def make_setup(config: Config, dataset: Dataset, own: OwnParts) -> Setup:
    """The setup of `make_simulation`.

    Raises:
      InputError: choices that do not fit the data set.
    """
    parts = _make_parts(config, dataset, own)
    config, population = parts.config, parts.population
    mesh = client_mesh(config.run.devices, exact=parts.aggregator.reduce.exact)
    train = population.train
    initialization = make_initialization(config, parts.model, population)
    if initialization is not None and initialization.recency:
        train = train.weighted_by_recency(float(initialization.recency))
    task = parts.task(weighted=train.weight is not None)
    plan, buckets = _plan_and_buckets(task, population.train)
    return Setup(
        config=config,
        dataset=dataset,
        population=population,
        task=task,
        buckets=tuple(buckets),
        features=put(dict(dataset.features), replicated_sharding(mesh)),
        plan=plan,
        initialization=initialization,
        train=train,
        mesh=mesh,
        hostile=parts.hostile,
    )


class _Parts(NamedTuple):
    """The parts of a `Setup` that take no time; its attributes describe them."""

    config: Config
    population: Dataset
    hostile: Hostile | None
    model: Model
    aggregator: Aggregator

    def task(self, *, weighted: bool) -> Task:
        """The inputs of a plan; `weighted`: whether the histories have weights."""
        # Of all clients: the draws of negatives need every history inside the pool.
        pool = negative_pool(self.population.train, self.config.evaluation.negative_pool)
        return Task(self.model, self.config, pool, self.aggregator, weighted=weighted)


def _make_parts(config: Config, dataset: Dataset, own: OwnParts) -> _Parts:
    """The parts of `make_setup`, which has the same arguments and errors."""
    backbone, fusion, aggregator, participation = own
    config = resolved_auto(config, own_part=any(part is not None for part in own))
    hostile, population = None, dataset
    if config.attack.attack != "none":
        hostile = plan_hostile(config.attack, dataset)
        population = with_hostile(config.attack, dataset, hostile)
    widths = {name: feature.shape[1] for name, feature in dataset.features.items()}
    model = make_model(config, dataset.num_items, widths, backbone=backbone, fusion=fusion)
    _check(config, population, model, own_parts=aggregator is not None or participation is not None)
    if aggregator is None:
        config = resolved(config, population.num_users)
        expected = None if participation is None else participation.expected
        aggregator = make_aggregator(config, population.num_users, expected)
    if hostile is not None:
        aggregator = aggregator.attacked(make_attack(config.attack, hostile))
    return _Parts(config, population, hostile, model, aggregator)


@under_own_settings
def check_setup(config: Config, dataset: Dataset) -> None:
    """Refuses choices that `make_simulation` refuses. It computes no initialization.

    It takes little time, so a command can check all its runs before it trains the first one.

    Raises:
      InputError: choices that do not fit each other or the data set.
    """
    parts = _make_parts(config, dataset, OwnParts())
    config, population = parts.config, parts.population
    check_initialization(config, parts.model, population)
    weighted = population.train.weight is not None
    _plan_and_buckets(parts.task(weighted=weighted), population.train)
    if config.fleet.has_clock:
        nothing = np.zeros(population.num_users)
        make_participation(config, population, Work(nothing, nothing, nothing))


def _check(config: Config, dataset: Dataset, model: Model, *, own_parts: bool) -> None:
    """Raises InputError for choices that do not fit each other, the model or the data set."""
    if config.privacy.privacy != "none" and own_parts:
        raise InputError(
            f"--privacy={config.privacy.privacy}: nothing is known of the noise or the sampling of "
            "an aggregator or a participation that was made elsewhere; give one or the other"
        )
    defense = config.defense
    if defense.defense_distance and not model.has_private_vector:
        raise InputError(
            f"--defense_distance={defense.defense_distance}: --backbone={config.model.backbone} "
            "has no private vector to separate from popular items; give fcf, pfedrec or fedrap, "
            "or 0"
        )
    if defense.active and defense.defense_items > dataset.num_items:
        raise InputError(
            f"--defense_items={defense.defense_items}: there are {dataset.num_items} items; give "
            "fewer"
        )
    if config.groups.active:
        _check_groups(config, dataset, model, own_parts=own_parts)
    row = model.width * len(model.fusion.names)
    if config.fleet.upload_rank > row:
        raise InputError(
            f"--upload_rank={config.fleet.upload_rank}: a row of the views has {row} numbers; give "
            "fewer, or 0 to send them all"
        )
    if config.fleet.upload_rows > dataset.num_items:
        raise InputError(
            f"--upload_rows={config.fleet.upload_rows}: there are {dataset.num_items} items; give "
            "fewer, or 0 to send all rows"
        )
    longest, drawn = int(dataset.train.counts.max()), config.federation.num_negatives
    if longest * (1 + drawn) > MOST_ROWS:
        raise InputError(
            f"--num_negatives={drawn}: the longest history has {longest} items, and its loss more "
            f"than 2^31 rows; give at most {MOST_ROWS // longest - 1}"
        )
    if config.federation.cohort > dataset.num_users:
        raise InputError(
            f"--cohort={config.federation.cohort}: the data set has {dataset.num_users} users"
        )


def _check_groups(config: Config, dataset: Dataset, model: Model, *, own_parts: bool) -> None:
    """Raises InputError for parts, or a data set, that groups of clients do not support."""
    flag = f"--groups={config.groups.groups}"
    if own_parts:
        raise InputError(
            f"{flag}: an aggregator or a participation that was made elsewhere need not show the "
            "server individual uploads; give neither, or --groups=0"
        )
    heads = jax.tree.leaves(shapes_of(model.init_private, key_of(0))["head"])
    if model.backbone.linear is None or heads or len(model.fusion.names) > 1:
        raise InputError(
            f"{flag}: needs a backbone with a linear score and without a private head, and a "
            "fusion with one view"
        )
    if not dataset.features:
        raise InputError(
            f"{flag}: the server fuses the features of the items for each group, but data set "
            f"{dataset.name} has none; give --groups=0"
        )
    if config.groups.groups > dataset.num_users:
        raise InputError(f"{flag}: the data set has {dataset.num_users} users; give fewer")


def _plan_and_buckets(task: Task, train: Interactions) -> tuple[str, list[np.ndarray]]:
    """How local epochs are executed, and the users of each bucket."""
    federation = task.config.federation
    by_length = bucket_clients(train, by_length=True)
    lengths = [int(train.counts[users].max()) for users in by_length]
    plan = choose_plan(task, lengths, [len(users) for users in by_length])
    check_precision(federation.matmul_precision, plan)
    # Padding costs time only in plans that gather the rows of a history.
    if plan == "gathered" or federation.negatives == "sampled":
        return plan, by_length
    return plan, bucket_clients(train, by_length=False)
