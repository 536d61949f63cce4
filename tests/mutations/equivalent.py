"""Mutants that no test can kill, with the reason; `systematic.py` does not count them."""

# Reason -> keys of mutants: the file, the line before and after, and which of equal ones it is.
_BY_REASON: dict[str, list[tuple[str, str, str, int]]] = {
    "Only how much memory a block of items takes; results do not depend on it.": [
        (
            "fedvlr_jax/uplink/uploads.py",
            "BLOCK_BYTES = 1 << 26",
            "BLOCK_BYTES = 0 << 26",
            0,
        ),
        (
            "fedvlr_jax/uplink/uploads.py",
            "BLOCK_BYTES = 1 << 26",
            "BLOCK_BYTES = 1 >> 26",
            0,
        ),
        (
            "fedvlr_jax/uplink/uploads.py",
            "BLOCK_BYTES = 1 << 26",
            "BLOCK_BYTES = 1 << 27",
            0,
        ),
    ],
    "Only the order of the three needs counts.": [
        (
            "fedvlr_jax/uplink/uploads.py",
            "WHOLE = 2",
            "WHOLE = 3",
            0,
        ),
    ],
    "The rows of places after the last item are zeros, whatever they are multiplied by.": [
        (
            "fedvlr_jax/uplink/uploads.py",
            'part = other.views.at[place].get(mode="fill", fill_value=0)',
            'part = other.views.at[place].get(mode="fill", fill_value=1)',
            0,
        ),
    ],
    "A row of 0 bytes belongs to a cohort without clients.": [
        (
            "fedvlr_jax/uplink/uploads.py",
            "size = max(1, min(items, BLOCK_BYTES // max(row_bytes, 1)))",
            "size = max(1, min(items, BLOCK_BYTES // max(row_bytes, 0)))",
            0,
        ),
    ],
    "The next line replaces the rows of places outside by zeros.": [
        (
            "fedvlr_jax/uplink/uploads.py",
            "rows = jnp.take(rows, jnp.minimum(place + shift, size - 1), axis=1)",
            "rows = jnp.take(rows, jnp.minimum(place + shift, size + 1), axis=1)",
            0,
        ),
        (
            "fedvlr_jax/uplink/uploads.py",
            "rows = jnp.take(rows, jnp.minimum(place + shift, size - 1), axis=1)",
            "rows = jnp.take(rows, jnp.minimum(place + shift, size - 0), axis=1)",
            0,
        ),
    ],
    "The scatter drops the place `size`.": [
        (
            "fedvlr_jax/uplink/slot_uploads.py",
            "place = jnp.where((place >= 0) & (place < size), place, size)",
            "place = jnp.where((place >= 0) & (place <= size), place, size)",
            0,
        ),
    ],
    "All parts have the same items, views and width.": [
        (
            "fedvlr_jax/uplink/joined_uploads.py",
            "return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])",
            "return (sum(part.shape[0] for part in self.parts), *self.parts[1].shape[1:])",
            0,
        ),
    ],
    "Without a response the next line keeps the state.": [
        (
            "fedvlr_jax/uplink/clip.py",
            "count = jnp.maximum(num_responded, 1).astype(jnp.float32)",
            "count = jnp.maximum(num_responded, 0).astype(jnp.float32)",
            0,
        ),
    ],
    "The law of the noise is symmetric.": [
        (
            "fedvlr_jax/uplink/clip.py",
            "within += deviation * jax.random.normal(key)",
            "within -= deviation * jax.random.normal(key)",
            0,
        ),
        (
            "fedvlr_jax/uplink/noise.py",
            "noisy = [leaf + deviation * each for leaf, each in zip(leaves, noise, strict=True)]",
            "noisy = [leaf - deviation * each for leaf, each in zip(leaves, noise, strict=True)]",
            0,
        ),
    ],
    "The barrier changes the last bits between device layouts, and no number.": [
        (
            "fedvlr_jax/uplink/noise.py",
            "noise, leaves, deviation = jax.lax.optimization_barrier((noise, leaves, deviation))",
            "pass",
            0,
        ),
    ],
    "Any number above those of the local epochs will do.": [
        (
            "fedvlr_jax/uplink/compress.py",
            "ROUNDING = 1 << 30",
            "ROUNDING = 1 << 31",
            0,
        ),
    ],
    "The longest rows are those with the largest mean square.": [
        (
            "fedvlr_jax/uplink/compress.py",
            "length = jnp.sum(jnp.square(views), axis=(2, 3))",
            "length = jnp.mean(jnp.square(views), axis=(2, 3))",
            0,
        ),
    ],
    "Two ways to the same sum; `whole` only saves the scatter.": [
        (
            "fedvlr_jax/uplink/compress.py",
            "whole=True,",
            "whole=False,",
            0,
        ),
    ],
    "A longer table holds the same law.": [
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "REACH = 12",
            "REACH = 13",
            0,
        ),
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "size = 1 << math.ceil(math.log2(2 * REACH * deviation + 2))",
            "size = 1 << math.ceil(math.log2(3 * REACH * deviation + 2))",
            0,
        ),
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "size = 1 << math.ceil(math.log2(2 * REACH * deviation + 2))",
            "size = 1 << math.ceil(math.log2(2 * REACH * deviation + 3))",
            0,
        ),
    ],
    "No float32 number lies exactly there.": [
        (
            "fedvlr_jax/uplink/ring.py",
            "over = jnp.any(jnp.abs(rows) > most, axis=tuple(range(1, rows.ndim)))",
            "over = jnp.any(jnp.abs(rows) >= most, axis=tuple(range(1, rows.ndim)))",
            0,
        ),
    ],
    "Other draws of the same law.": [
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "bits = jax.random.bits(key, (2, *shape), jnp.uint32)",
            "bits = jax.random.bits(key, (3, *shape), jnp.uint32)",
            0,
        ),
    ],
    "Differs for one draw in 2^32.": [
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "place = jnp.where(bits[1] <= accept[place], place, other[place])",
            "place = jnp.where(bits[1] < accept[place], place, other[place])",
            0,
        ),
    ],
    "A place with share 1 fills itself, in whichever list it is.": [
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "small = [int(i) for i in np.flatnonzero(share < 1)]",
            "small = [int(i) for i in np.flatnonzero(share <= 1)]",
            0,
        ),
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "large = [int(i) for i in np.flatnonzero(share >= 1)]",
            "large = [int(i) for i in np.flatnonzero(share > 1)]",
            0,
        ),
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "(small if share[high] < 1 else large).append(high)",
            "(small if share[high] <= 1 else large).append(high)",
            0,
        ),
    ],
    "Places that are left over have themselves as `other`: their threshold does not matter.": [
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "accept = np.ones(size)",
            "accept = np.zeros(size)",
            0,
        ),
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "return _Table(np.minimum(accept * 2.0**32, 2.0**32 - 1).astype(np.uint32), other)",
            "return _Table(np.minimum(accept * 2.0**32, 4.0**32 - 1).astype(np.uint32), other)",
            0,
        ),
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "return _Table(np.minimum(accept * 2.0**32, 2.0**32 - 1).astype(np.uint32), other)",
            "return _Table(np.minimum(accept * 2.0**32, 2.0**33 - 1).astype(np.uint32), other)",
            0,
        ),
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "return _Table(np.minimum(accept * 2.0**32, 2.0**32 - 1).astype(np.uint32), other)",
            "return _Table(np.minimum(accept * 2.0**32, 2.0**32 + 1).astype(np.uint32), other)",
            0,
        ),
        (
            "fedvlr_jax/uplink/discrete_gaussian.py",
            "return _Table(np.minimum(accept * 2.0**32, 2.0**32 - 1).astype(np.uint32), other)",
            "return _Table(np.minimum(accept * 2.0**32, 2.0**32 - 0).astype(np.uint32), other)",
            0,
        ),
    ],
    "alpha is 0 for clients that did not respond, and the median leaves them out.": [
        (
            "fedvlr_jax/reduce/robust.py",
            "norms = jnp.where(responded, uploads.norms(), 0.0)",
            "norms = (uploads.norms())",
            0,
        ),
        (
            "fedvlr_jax/reduce/robust.py",
            "norms = jnp.where(responded, uploads.norms(), 0.0)",
            "norms = jnp.where(responded, uploads.norms(), 1.0)",
            0,
        ),
    ],
    "Differs without a response only; nothing is selected then.": [
        (
            "fedvlr_jax/reduce/robust.py",
            "selected = responded & (place < jnp.maximum(num_responded - 2 * byzantine, 1))",
            "selected = responded & (place < jnp.maximum(num_responded - 2 * byzantine, 0))",
            0,
        ),
        (
            "fedvlr_jax/reduce/robust.py",
            "nearest = jnp.maximum(count - 2 * byzantine, 1)",
            "nearest = jnp.maximum(count - 2 * byzantine, 0)",
            0,
        ),
        (
            "fedvlr_jax/reduce/robust.py",
            "share = count.astype(rows.dtype) / jnp.maximum(num_responded, 1).astype(rows.dtype)",
            "share = count.astype(rows.dtype) / jnp.maximum(num_responded, 0).astype(rows.dtype)",
            0,
        ),
    ],
    "The norms and their median change by the same factor.": [
        (
            "fedvlr_jax/reduce/robust.py",
            "norm = jnp.sqrt(jnp.sum(jnp.square(rows), axis=2))",
            "norm = jnp.sqrt(jnp.mean(jnp.square(rows), axis=2))",
            0,
        ),
    ],
    "A distance of 0 gives the upload all of the weight, with either lower bound.": [
        (
            "fedvlr_jax/reduce/gram.py",
            "least = smoothing * jnp.sqrt(jnp.max(square, initial=0.0)) + 1e-30",
            "least = smoothing * jnp.sqrt(jnp.min(square, initial=0.0)) + 1e-30",
            0,
        ),
    ],
    "A group outside the cut-off adds sums over no rank.": [
        (
            "fedvlr_jax/evaluation/metrics.py",
            "for ranks_inside in np.unique(inside[inside > 0]):",
            "for ranks_inside in np.unique(inside[inside >= 0]):",
            0,
        ),
    ],
}

EQUIVALENT = {key: reason for reason, keys in _BY_REASON.items() for key in keys}
