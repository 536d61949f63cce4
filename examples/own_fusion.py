"""Your own fusion: the ID and the text of an item, weighed by one private gate of each client.

    python -m examples.own_fusion

The gate is a single number, so a client weighs all items alike and reads nothing of its history.
"""

import jax
import jax.numpy as jnp

import fedvlr_jax as fj


def gated_sum(width: int, text_width: int) -> fj.Fusion:
    """gate * text + (1 - gate) * ID; the gate of a client begins at 1/2."""

    def init_shared(key):
        kernel = jax.random.normal(key, (text_width, width)) / jnp.sqrt(text_width)
        return {"kernel": kernel}

    def views(gamma, items, features):
        return jnp.stack([items, features["text"] @ gamma["kernel"]], axis=1)

    def route(router, pooled):
        return jax.nn.softmax(jnp.stack([jnp.zeros(()), router["gate"]]))

    return fj.Fusion(
        names=("id", "text"),
        init_shared=init_shared,
        views=views,
        init_router=lambda key: {"gate": jnp.zeros(())},
        route=route,
        set_logits=lambda router, logits: {"gate": logits[1] - logits[0]},
    )


def main(rounds: int = 20) -> float:
    """Trains with the fusion; returns the validation NDCG@50 of the best round, in percent."""
    dataset = fj.load_dataset("synthetic", synthetic={"users": 200, "items": 300})
    config = fj.Config.from_flat(rounds=rounds, width=32, router_lr=3.0)
    fusion = gated_sum(32, dataset.features["text"].shape[1])
    fj.check_fusion(fusion, dataset, width=32)
    simulation = fj.make_simulation(config, dataset, fusion=fusion)
    run, _ = fj.train(simulation)
    best = max(entry["valid"]["ndcg@50"] for entry in run.evaluations)
    weights = simulation.router_weights(run.state)
    print(f"best round {run.best_round}: validation NDCG@50 {best:.1f}")
    print(f"weight of the text: {weights[:, 1].min():.2f} to {weights[:, 1].max():.2f}")
    return best


if __name__ == "__main__":
    main()
