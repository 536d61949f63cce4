"""What the programs that compare bits share."""

import hashlib

import jax
import numpy as np

from fedvlr_jax.trees import is_key


def digest(tree):
    """Of all bits of a tree's numbers."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and is_key(leaf):
            leaf = jax.random.key_data(leaf)
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return sha.hexdigest()
