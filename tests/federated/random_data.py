"""A small random data set with times, for tests of the closed form."""

import numpy as np

from fedvlr_jax.data.dataset import Dataset, Interactions


def random_dataset(seed, users, items, *, unseen, share, parts, features=()):
    """Everyone has a train item; nobody has the last `unseen` items.

    Args:
      share: of the items, that a user has. parts: one of so many is for each held-out part.
      features: names of modalities, of four numbers.
    """
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((users, items - unseen)) < share)
    part = rng.permutation(len(user)) % parts
    part[np.unique(user, return_index=True)[1]] = parts - 1
    rows = {name: rng.standard_normal((items, 4)).astype(np.float32) for name in features}
    pairs = lambda chosen: Interactions.from_pairs(
        user=user[chosen],
        item=item[chosen],
        time=rng.permutation(len(user))[chosen],
        num_users=users,
        num_items=items,
    )
    return Dataset(
        name="random",
        train=pairs(part > 1),
        valid=pairs(part == 1),
        test=pairs(part == 0),
        features=rows,
        user_ids=np.arange(users).astype(str),
        item_ids=np.arange(items).astype(str),
        split="predefined",
    )
