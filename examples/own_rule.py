"""Your own aggregation rule: the mean of the uploads, each scaled to norm 1.

    python -m examples.own_rule

Every client then has the same influence, whatever the norm of its upload.
"""

import jax.numpy as jnp

import fedvlr_jax as fj


def unit_mean() -> fj.Reduce:
    """The mean of the uploads, each scaled to L2 norm 1."""

    def weights(weight, responded):
        ones = jnp.where(responded, 1.0, 0.0)
        return ones / jnp.maximum(jnp.sum(ones), 1.0)

    def combine(uploads, alpha, responded):
        return uploads.total(alpha / jnp.maximum(uploads.norms(), 1e-12))

    return fj.Reduce(needs=fj.Needs.WHOLE, weights=weights, combine=combine)


def main(rounds: int = 20) -> float:
    """Trains with the rule; returns the loss of the last round."""
    config = fj.Config.from_flat(
        rounds=rounds, init="random", server_optimizer="sgd", server_lr_items=1.0, client_lr=0.3
    )
    dataset = fj.load_dataset("synthetic", synthetic={"users": 200, "items": 300})
    aggregator = fj.make_aggregator(config, dataset.num_users)._replace(reduce=unit_mean())
    fj.check_aggregator(aggregator)
    simulation = fj.make_simulation(config, dataset, aggregator=aggregator)
    _, metrics = simulation.run_rounds(simulation.init(), rounds)
    print(f"loss {metrics.loss[0]:.4f} in the first round, {metrics.loss[-1]:.4f} in the last")
    return float(metrics.loss[-1])


if __name__ == "__main__":
    main()
