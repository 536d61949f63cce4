"""Your own backbone: a private user vector with a private scale.

    python -m examples.own_backbone

The score of an item is scale * <item, user>.
"""

import jax
import jax.numpy as jnp

import fedvlr_jax as fj


def scaled_product() -> fj.Backbone:
    """FCF with a private scale instead of the bias."""

    def init_private(key, width):
        vector = jax.random.normal(key, (width,)) / jnp.sqrt(width)
        return {"vector": vector, "scale": jnp.ones(())}

    def score(shared, private, vectors):
        return private["scale"] * (vectors @ private["vector"])

    return fj.Backbone(
        init_shared=lambda key, width: {},
        init_private=init_private,
        score=score,
        linear=None,
        weight="equal",
    )


def main(rounds: int = 20) -> float:
    """Trains the backbone behind the bilevel fusion; returns the loss of the last round."""
    backbone = scaled_product()
    fj.check_backbone(backbone)
    config = fj.Config.from_flat(rounds=rounds, fusion="bilevel", client_lr=0.3)
    dataset = fj.load_dataset("synthetic", synthetic={"users": 200, "items": 300})
    simulation = fj.make_simulation(config, dataset, backbone=backbone)
    state, metrics = simulation.run_rounds(simulation.init(), rounds)
    print(f"loss {metrics.loss[0]:.4f} in the first round, {metrics.loss[-1]:.4f} in the last")
    print("user 7 is recommended", simulation.recommend(state, 5)[0][7])
    return float(metrics.loss[-1])


if __name__ == "__main__":
    main()
