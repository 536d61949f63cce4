"""Your own data set, from arrays, without a file.

python -m examples.own_dataset
"""

import numpy as np

import fedvlr_jax as fj


def make_dataset(users: int = 120, items: int = 200) -> fj.Dataset:
    """Users of four groups. Each group likes every fourth item; text features show the group."""
    generator = np.random.default_rng(0)
    taste = np.arange(items) % 4
    parts: dict[str, list[tuple[int, int]]] = {"train": [], "valid": [], "test": []}
    for user in range(users):
        liked = generator.permutation(np.flatnonzero(taste == user % 4))[:12]
        parts["train"] += [(user, int(item)) for item in liked[:10]]
        parts["valid"].append((user, int(liked[10])))
        parts["test"].append((user, int(liked[11])))

    def interactions(part: str) -> fj.Interactions:
        user, item = np.array(parts[part]).T
        return fj.Interactions.from_pairs(user=user, item=item, num_users=users, num_items=items)

    text = np.eye(4)[taste] + 0.1 * generator.normal(size=(items, 4))
    return fj.Dataset(
        name="groups",
        train=interactions("train"),
        valid=interactions("valid"),
        test=interactions("test"),
        features={"text": text.astype(np.float32)},
        user_ids=np.array([f"user{u}" for u in range(users)]),
        item_ids=np.array([f"item{i}" for i in range(items)]),
        split="predefined",
    )


def main(rounds: int = 20) -> float:
    """Trains on the data set; returns the validation NDCG@50 of the best round, in percent."""
    dataset = make_dataset()
    fj.check_dataset(dataset)
    simulation = fj.make_simulation(fj.Config.from_flat(rounds=rounds), dataset)
    run, _ = fj.train(simulation)
    best = max(entry["valid"]["ndcg@50"] for entry in run.evaluations)
    print(f"best round {run.best_round}: validation NDCG@50 {best:.1f}")
    return best


if __name__ == "__main__":
    main()
