"""A data set, a model and a federation put together: the functions a researcher calls.

simulation = make_simulation(config, dataset)
state = simulation.init()
state, metrics = simulation.run_rounds(state, 20)
ranks = simulation.evaluate(state, "valid")
"""

from __future__ import annotations

import dataclasses

from fedvlr_jax.attacks import make_attack, plan_hostile, with_hostile
from fedvlr_jax.config import Config
from fedvlr_jax.data.cohorts import bucket_clients, negative_pool, pad_histories
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.aggregator import Aggregator, make_aggregator
from fedvlr_jax.federated.devices import by_client, client_mesh, on_all, padded, put
from fedvlr_jax.federated.initialization import make_initialization
from fedvlr_jax.federated.local import Task, make_model
from fedvlr_jax.federated.matmul_precision import check_precision
from fedvlr_jax.federated.round import choose_plan
from fedvlr_jax.fleet import Participation, make_participation, round_bytes
from fedvlr_jax.fleet.participation import Work
from fedvlr_jax.fusion import Fusion
from fedvlr_jax.models import Backbone
from fedvlr_jax.offloaded import OffloadedSimulation
from fedvlr_jax.on_device import NonFiniteError, Simulation, State
from fedvlr_jax.privacy.plan import resolved
from fedvlr_jax.settings import under_own_settings

__all__ = ["NonFiniteError", "Simulation", "State", "make_simulation"]


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

    Args:
      backbone, fusion: in place of those that `config` names.
      aggregator: what the server does with the uploads, in place of what `config` says of clipping,
        noise, aggregation and the server's optimizer.
      participation: who takes part in each round, in place of the flags' simulated clock.

    Hostile clients, where --attack names what they do, join the population behind the users.

    Raises:
      InputError: choices that do not fit the data set.
    """
    hostile = None
    if config.attack.attack != "none":
        hostile = plan_hostile(config.attack, dataset)
        dataset = with_hostile(config.attack, dataset, hostile)
    widths = {name: feature.shape[1] for name, feature in dataset.features.items()}
    model = make_model(config, dataset.num_items, widths, backbone=backbone, fusion=fusion)
    if config.privacy.privacy != "none" and not (aggregator is None and participation is None):
        raise InputError(
            f"--privacy={config.privacy.privacy}: nothing is known of the noise or the sampling of "
            "an aggregator or a participation that was made elsewhere; give one or the other"
        )
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
    if config.federation.cohort > dataset.num_users:
        raise InputError(
            f"--cohort={config.federation.cohort}: the data set has {dataset.num_users} users"
        )
    if aggregator is None:
        config = resolved(config, dataset.num_users)
        aggregator = make_aggregator(config, dataset.num_users)
    if hostile is not None:
        aggregator = aggregator.attacked(make_attack(config.attack, hostile))
    mesh = client_mesh(config.run.devices, exact=aggregator.reduce.exact)
    pool = negative_pool(dataset.train, config.evaluation.negative_pool)
    initialization = make_initialization(config, model, dataset)
    train = dataset.train
    if initialization is not None and initialization.recency:
        train = train.weighted_by_recency(float(initialization.recency))
    weighted = train.weight is not None
    task = Task(model, config, pool, aggregator, weighted=weighted)
    # Only where rows are gathered does the padding of a history cost anything.
    by_length = bucket_clients(dataset.train, by_length=True)
    lengths = [int(dataset.train.counts[b].max()) for b in by_length]
    plan = choose_plan(task, lengths, [len(b) for b in by_length])
    check_precision(config.federation.matmul_precision, plan)
    per_history = plan == "gathered" or config.federation.negatives == "sampled"
    buckets = by_length if per_history else bucket_clients(dataset.train, by_length=False)
    resident = config.run.store == "device"
    rows = (pad_histories(train, b, size=padded(len(b))) for b in buckets)
    simulation = (Simulation if resident else OffloadedSimulation)(
        config=config,
        dataset=dataset,
        model=model,
        task=task,
        buckets=tuple(buckets),
        histories=tuple(put(b, by_client(mesh)) for b in rows) if resident else (),
        features=put(dict(dataset.features), on_all(mesh)),
        plan=plan,
        initialization=initialization,
        train=train,
        mesh=mesh,
        hostile=hostile,
    )
    if participation is None and config.fleet.has_clock:
        participation = make_participation(config, dataset, work_of(simulation))
    return dataclasses.replace(simulation, participation=participation)


def work_of(simulation: Simulation) -> Work:
    """What a round asks of each client."""
    federation, shape = simulation.config.federation, simulation.broadcast_shape
    rows = simulation.dataset.train.counts * (1 + federation.num_negatives)
    return Work(
        bytes_down=float(round_bytes(shape, shape.items, "dense")),
        bytes_up=round_bytes(
            simulation.upload_shape, simulation.touched_rows, simulation.config.fleet.upload_format
        ).astype(float),
        rows=rows * federation.local_epochs,
    )
