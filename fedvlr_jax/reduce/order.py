"""Order statistics along the clients, selected without sorting.

The bits of a float, read as a whole number, have its order. So the value at a place of that order
is found bit by bit: each of 32 passes counts the clients below a trial value. The passes are
comparisons and sums over the clients, which vectorise; a sort along the clients does not. The
selected values are exact, and the order of the clients does not matter.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# On a CPU the passes read this many coordinates at a time, so that they stay in the cache.
BLOCK_COORDINATES = 64


def ordered_bits(values: jax.Array) -> jax.Array:
    """The whole numbers that order as `values` do: int32 for float32, int64 for float64.

    -0.0 is before 0.0. The function is its own inverse, see `values_of`.
    """
    size = jnp.finfo(values.dtype).bits
    return _without_sign(jax.lax.bitcast_convert_type(values, jnp.dtype(f"int{size}")))


def values_of(bits: jax.Array) -> jax.Array:
    """The floats of `ordered_bits`."""
    size = jnp.iinfo(bits.dtype).bits
    return jax.lax.bitcast_convert_type(_without_sign(bits), jnp.dtype(f"float{size}"))


def _without_sign(bits: jax.Array) -> jax.Array:
    """Reverses the order of the negative numbers, which floats have by absolute value."""
    info = jnp.iinfo(bits.dtype)
    return bits ^ ((bits >> (info.bits - 1)) & info.max)


def _counted_bits(values: jax.Array, counted: jax.Array) -> jax.Array:
    """[K, B]: `ordered_bits`; the largest of all, a NaN, for NaN and outside `counted`."""
    bits = ordered_bits(values)
    return jnp.where(counted & ~jnp.isnan(values), bits, jnp.iinfo(bits.dtype).max)


def _number(condition: jax.Array) -> jax.Array:
    """int32 [B]: for how many clients `condition`, bool [K, B], holds."""
    return jnp.sum(condition, axis=0, dtype=jnp.int32)


def _select(bits: jax.Array, place: jax.Array) -> jax.Array:
    """[B]: the number at `place`, int32 [B], in the ascending order of `bits` [K, B]."""
    info = jnp.iinfo(bits.dtype)

    def step(number: jax.Array, found: jax.Array) -> jax.Array:
        # The first step leads from the least number to 0, by an overflow.
        bit = jnp.ones((), bits.dtype) << (info.bits - 1 - number).astype(bits.dtype)
        trial = found + bit
        return jnp.where(_number(bits < trial[None]) <= place, trial, found)

    return jax.lax.fori_loop(0, info.bits, step, jnp.full(bits.shape[1:], info.min, bits.dtype))


def _at(bits: jax.Array, place: jax.Array) -> jax.Array:
    """`_select`, in blocks that fit the cache on a CPU."""
    columns, size = bits.shape[1], BLOCK_COORDINATES
    place = jnp.broadcast_to(place.astype(jnp.int32), (columns,))
    if columns <= size or jax.default_backend() != "cpu":
        return _select(bits, place)

    def block(number: jax.Array, found: jax.Array) -> jax.Array:
        start = jnp.minimum(number * size, columns - size)
        of_block = lambda array: jax.lax.dynamic_slice_in_dim(array, start, size, array.ndim - 1)
        selected = _select(of_block(bits), of_block(place))
        return jax.lax.dynamic_update_slice_in_dim(found, selected, start, 0)

    return jax.lax.fori_loop(0, -(-columns // size), block, jnp.zeros(columns, bits.dtype))


def median(values: jax.Array, counted: jax.Array) -> jax.Array:
    """[B]: the median of values [K, B] over the clients of `counted`; 0 without any.

    Of an even number it is the mean of the two in the middle. NaN counts as the largest value.

    Args:
      counted: bool, [K, B] or [K, 1].
    """
    bits, count = _counted_bits(values, counted), _number(counted)
    low = _at(bits, jnp.maximum(count - 1, 0) // 2)
    # The value at the next place is equal, or the least of the larger ones.
    larger = jnp.where(bits > low[None], bits, jnp.iinfo(bits.dtype).max)
    equal = _number(bits <= low[None]) > count // 2
    high = jnp.where(equal, low, jnp.min(larger, axis=0))
    return jnp.where(count > 0, (values_of(low) + values_of(high)) / 2, 0.0)


def mean_between(
    values: jax.Array, counted: jax.Array, start: jax.Array, end: jax.Array
) -> jax.Array:
    """[B]: the mean of the places start to end - 1 of values [K, B] in ascending order.

    0 without a client in `counted`. NaN counts as the largest value.

    Args:
      counted: bool [K, 1]. start, end: int32 [], 0 <= start < end <= the clients in `counted`.
    """
    bits = _counted_bits(values, counted)
    low, high = _at(bits, start), _at(bits, end - 1)
    inside = (bits > low[None]) & (bits < high[None])
    lowest = _number(bits <= low[None]) - start
    highest = end - _number(bits < high[None])
    total = jnp.sum(jnp.where(inside, values, 0.0), axis=0)
    total += lowest.astype(values.dtype) * values_of(low)
    total += highest.astype(values.dtype) * values_of(high)
    mean = jnp.where(low == high, values_of(low), total / (end - start).astype(values.dtype))
    return jnp.where(jnp.any(counted), mean, 0.0)


def mean_of_nearest(
    values: jax.Array, counted: jax.Array, centre: jax.Array, nearest: jax.Array
) -> jax.Array:
    """[B]: the mean of the `nearest` values [K, B] with the least distance to `centre` [B].

    Values with equal distance share the places that are left for them. 0 without a client in
    `counted`.

    Args:
      counted: bool [K, 1]. nearest: int32 [], at least 1, at most the clients in `counted`.
    """
    bits = _counted_bits(jnp.abs(values - centre[None]), counted)
    bound = _at(bits, nearest - 1)[None]
    inside, tied = bits < bound, counted & (bits == bound)
    sum_where = lambda kept: jnp.sum(jnp.where(kept, values, 0.0), axis=0)
    left = (nearest - _number(inside)).astype(values.dtype)
    shared = left * sum_where(tied) / _number(tied).astype(values.dtype)
    mean = (sum_where(inside) + shared) / nearest.astype(values.dtype)
    return jnp.where(jnp.any(counted), mean, 0.0)
