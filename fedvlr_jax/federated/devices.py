"""Clients on several devices, and sums that do not depend on the number of devices.

There is one mesh axis, "clients". It divides private rows, histories and all other arrays with a
leading client axis. Every device has the server's state. Each device trains its own clients, and
the uploads are summed over the devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fedvlr_jax import trees
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.local import Broadcast, LocalInput
from fedvlr_jax.federated.trained import TrainCohort, Trained, client_axes
from fedvlr_jax.settings import PRNG, under_own_settings
from fedvlr_jax.types import PyTree
from fedvlr_jax.uplink import Upload

AXIS = "clients"
# The size of a bucket is a multiple of this: 1, 2, 4 and 8 devices then have the same rows, and
# the same sum over this number of groups.
GROUPS = 8
_GROUP_BITS = GROUPS.bit_length() - 1


def padded(size: int) -> int:
    """The next multiple of GROUPS."""
    return size + -size % GROUPS


def client_mesh(num_devices: int, *, exact: bool = False) -> Mesh | None:
    """A mesh over the first `num_devices` devices (0: the largest possible number).

    None for a single device. If sums are `exact`, a mesh of one instead: one device then runs the
    same program as several, which gives the same bits.

    Raises:
      InputError: there are fewer devices; their number does not divide GROUPS; or several processes
        would not use all their devices.
    """
    devices, processes = jax.devices(), jax.process_count()
    allowed = [n for n in range(1, GROUPS + 1) if GROUPS % n == 0]
    wanted = num_devices or max(n for n in allowed if n <= len(devices))
    if wanted > len(devices):
        raise InputError(f"--devices={num_devices}: this machine has {len(devices)}")
    if wanted not in allowed:
        raise InputError(
            f"--devices={num_devices}: give 1, 2, 4 or 8, which divide the clients evenly, or 0 "
            "for the largest of these that exists"
        )
    if processes > 1 and wanted != len(devices):
        raise InputError(
            f"--devices={num_devices}: {processes} processes have {len(devices)} devices and must "
            "use all of them; start as many as have 1, 2, 4 or 8, with --devices=0"
        )
    if wanted == 1 and not exact:
        return None
    return jax.make_mesh((wanted,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:wanted])


def client_sharding(mesh: Mesh | None) -> jax.sharding.Sharding | None:
    """Leaves cut along their leading client axis."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec(AXIS))


def replicated_sharding(mesh: Mesh | None) -> jax.sharding.Sharding | None:
    """Leaves that every device holds."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def put(tree: PyTree, sharding: jax.sharding.Sharding | None) -> PyTree:
    """The tree's arrays on their devices; without a sharding, on the default one."""
    return jax.device_put(tree, sharding)


@under_own_settings
def fetch(tree: PyTree) -> PyTree:
    """The tree's arrays in host memory, whole in every process; keys stay typed."""
    is_key = trees.is_key
    numbers = jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)
    if jax.process_count() == 1:
        whole = jax.device_get(numbers)
    else:
        whole = multihost_utils.process_allgather(numbers, tiled=True)
    return jax.tree.map(
        lambda x, y: jax.random.wrap_key_data(y, impl=PRNG) if is_key(x) else y, tree, whole
    )


def agreed(number: int) -> int:
    """The number of the first process, returned in every process."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.asarray(number)))


def map_devices(function: Callable[..., PyTree], mesh: Mesh | None) -> Callable[..., PyTree]:
    """`function(whole, whole, rows)`, with rows and results divided over the mesh."""
    if mesh is None:
        return function
    cut, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.shard_map(
        function, mesh=mesh, in_specs=(whole, whole, cut), out_specs=cut, check_vma=False
    )


def constrain(tree: PyTree, sharding: jax.sharding.Sharding | None) -> PyTree:
    """Inside a compiled function: the tree with its arrays placed by `sharding`."""
    return tree if sharding is None else jax.lax.with_sharding_constraint(tree, sharding)


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Inside a compiled function: copies the tree's whole arrays to every device before any use.

    A sum over clients then has the same terms in the same order on each device, for any number of
    devices. The barrier prevents the compiler from summing shard by shard.
    """
    if mesh is None:
        return tree
    everywhere = replicated_sharding(mesh)
    return constrain(jax.lax.optimization_barrier(constrain(tree, everywhere)), everywhere)


def _fixed_point(largest: jax.Array) -> jax.Array:
    """A power of two, such that the sum of GROUPS numbers up to `largest`, times it, fits in int32.

    It is exact, while the last bits of exp2 depend on the program. NaN if `largest` is not finite,
    so that the sum is NaN too.
    """
    _, exponent = jnp.frexp(jnp.maximum(largest, 1e-30))
    scale = jnp.ldexp(jnp.ones((), largest.dtype), 30 - _GROUP_BITS - exponent)
    return jnp.where(jnp.isfinite(largest), scale, jnp.nan)


def _in_groups(train: TrainCohort, groups: int) -> TrainCohort:
    """Sums the uploads of `groups` equal groups as integers: exact in any order.

    On every device the same program sums each group in float32 over the same clients. It rounds the
    sum to a multiple of a power of two, such that GROUPS times the largest entry fits in int32. The
    rounding error is at most 2**-27 of that entry.
    """

    def grouped(broadcast: Broadcast, clients: LocalInput, key: jax.Array) -> Trained:
        split = lambda leaf: leaf.reshape(groups, -1, *leaf.shape[1:])
        train_group = lambda group: train(broadcast, group, key)
        results = jax.lax.map(train_group, jax.tree.map(split, clients))

        def total(uploads: jax.Array) -> jax.Array:
            scale = _fixed_point(jax.lax.pmax(jnp.max(jnp.abs(uploads)), AXIS))
            whole = jnp.sum(jnp.round(uploads * scale).astype(jnp.int32), axis=0)
            whole = jax.lax.psum(whole, AXIS)
            return whole.astype(uploads.dtype) / scale

        upload = jax.tree.map(total, results.upload)
        merge = lambda leaf: leaf.reshape(-1, *leaf.shape[2:])
        return jax.tree.map(merge, results._replace(upload=()))._replace(upload=upload)

    return grouped


def over_devices(train: TrainCohort, mesh: Mesh | None, *, exact: bool) -> TrainCohort:
    """`train` with its clients divided over the mesh.

    It adds up sums of uploads over the devices. Single uploads stay on their device.

    Args:
      train: trains the clients of one device.
      exact: whether the summed upload is the same to the bit on 1, 2, 4 and 8 devices.
        The number of clients must then be a multiple of GROUPS, and a single device needs a mesh
        of one, see `client_mesh`.
    """
    if mesh is None:
        return train

    def local(broadcast: Broadcast, clients: LocalInput, key: jax.Array) -> Trained:
        if exact:
            return _in_groups(train, GROUPS // mesh.size)(broadcast, clients, key)
        result = train(broadcast, clients, key)
        if isinstance(result.upload, Upload):
            total = jax.tree.map(lambda leaf: jax.lax.psum(leaf, AXIS), result.upload)
            result = result._replace(upload=total)
        return result

    cut, whole = PartitionSpec(AXIS), PartitionSpec()
    spec = lambda axis: whole if axis < 0 else PartitionSpec(*[None] * axis, AXIS)

    def run(*inputs: Any) -> Trained:
        shapes = jax.eval_shape(train, *inputs)
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(whole, cut, whole),
            out_specs=jax.tree.map(spec, client_axes(shapes)),
            check_vma=False,
        )(*inputs)

    return run
