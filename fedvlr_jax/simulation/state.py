"""The state of a simulation, and how it begins."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.federated.buffered import first_versions
from fedvlr_jax.federated.devices import client_sharding, replicated_sharding
from fedvlr_jax.federated.groups import groups_memory
from fedvlr_jax.federated.popular import popular_memory
from fedvlr_jax.federated.streams import INIT, stream
from fedvlr_jax.settings import key_of, shapes_of
from fedvlr_jax.simulation.setup import Setup
from fedvlr_jax.simulation.workload import views_shape
from fedvlr_jax.trees import named_leaves
from fedvlr_jax.types import PyTree, ServerState
from fedvlr_jax.uplink import Upload


class State(NamedTuple):
    """A whole simulation: the server's state, and the private rows of every client.

    Attributes:
      server: the server's state, with the number of finished rounds.
      private: on the devices, one stacked pytree per bucket of clients (`Setup.buckets`), leaves
        [padded n_b, ...]; with --store=host or disk, a `ClientStore`.
    """

    server: ServerState
    private: Any


@dataclasses.dataclass(frozen=True, eq=False)
class InitialState:
    """The state before the first round: compiled functions of the seed."""

    setup: Setup

    def server(self, seed: int | None) -> ServerState:
        """The server's state; `seed` defaults to the config's."""
        seed = self.setup.config.run.seed if seed is None else seed
        return self.init_server(np.uint32(seed), self._items)

    @property
    def _items(self) -> np.ndarray | None:
        initialization = self.setup.initialization
        return None if initialization is None else initialization.items

    @functools.cached_property
    def init_server(self) -> Callable[..., ServerState]:
        """(seed uint32 [], the ID table [I, d] that training begins with or None) ->
        `ServerState`."""
        model, aggregator = self.setup.model, self.setup.task.aggregator
        optimizer = aggregator.server(self.setup.config.federation.rates)
        attack = aggregator.attack

        def init(seed: jax.Array, items: jax.Array | None) -> ServerState:
            key = key_of(seed)
            shared = model.init_shared(stream(key, INIT))
            if items is not None:
                zero_content_views = model.fusion.zero_content_views
                assert zero_content_views is not None
                shared |= {"items": items, "fusion": zero_content_views(shared["fusion"])}
            uplink = aggregator.uplink.init()
            upload = Upload(jnp.zeros(views_shape(self.setup)), shared["head"])
            return ServerState(
                round=jnp.zeros((), jnp.int32),
                key=key,
                shared=shared,
                optimizer=optimizer.init(shared),
                uplink=uplink,
                attack=() if attack is None else attack.init(views_shape(self.setup)),
                popular=popular_memory(self.setup.config, views_shape(self.setup)),
                versions=first_versions(self.setup.config, shared, uplink),
                noise=aggregator.noise.init(upload),
                groups=groups_memory(
                    self.setup.config,
                    self.setup.features,
                    self.setup.population.num_users,
                    model.width,
                    key,
                ),
            )

        return self.setup.compiled(init, out_shardings=replicated_sharding(self.setup.mesh))

    @functools.cached_property
    def init_private(self) -> Callable[..., tuple[PyTree, ...]]:
        """(key, clients int32 [K] of each bucket, their `Initialization.clients` or None) -> the
        rows of each bucket before the first round, leaves [K, ...]."""
        model = self.setup.model

        def init(
            key: jax.Array, clients: tuple[jax.Array, ...], initial: tuple[PyTree, ...] | None
        ) -> tuple[PyTree, ...]:
            init_client = lambda client: model.init_private(stream(key, INIT, client))
            buckets = tuple(jax.vmap(init_client)(bucket) for bucket in clients)
            for bucket_rows, given in zip(buckets, initial or (), strict=initial is not None):
                if "vector" in given:
                    bucket_rows["head"] |= {"vector": given["vector"]}
                if "logits" in given:
                    set_logits = model.fusion.set_logits
                    assert set_logits is not None
                    router = jax.vmap(set_logits)(bucket_rows["router"], given["logits"])
                    bucket_rows["router"] = router
            return buckets

        return self.setup.compiled(init, out_shardings=client_sharding(self.setup.mesh))

    @functools.cached_property
    def draw_leaf(self) -> Callable[..., jax.Array]:
        """(key, clients int32 [K], name of a private leaf) -> its rows [K, ...], as each client
        draws them: without `Initialization.clients`."""
        model = self.setup.model

        def draw(key: jax.Array, clients: jax.Array, name: str) -> jax.Array:
            init_client = lambda client: model.init_private(stream(key, INIT, client))
            return named_leaves(jax.vmap(init_client)(clients))[name]

        return self.setup.compiled(draw, static_argnames="name")

    @functools.cached_property
    def server_shapes(self) -> ServerState:
        """Shapes and dtypes of the server's state."""
        return shapes_of(self.init_server, np.uint32(0), self._items)

    @functools.cached_property
    def client_shapes(self) -> PyTree:
        """Shapes and dtypes of ONE client's private rows."""
        return shapes_of(self.setup.model.init_private, key_of(0))
