"""Your own clock: clients take turns, and one in ten is lost.

python -m examples.own_clock
"""

import numpy as np

import fedvlr_jax as fj


class Turns:
    """Client u is sampled in the rounds r with r mod `turns` = u mod `turns`."""

    def __init__(self, clients: int, turns: int) -> None:
        self.clients, self.turns = clients, turns
        self.expected = clients // turns

    def round(self, seed: int, round_number: int) -> fj.RoundSchedule:
        """A minute each. It depends on the arguments alone, so a run can resume at any round."""
        sampled = np.arange(round_number % self.turns, self.clients, self.turns)
        draws = np.random.default_rng((seed, round_number))
        return fj.RoundSchedule(
            sampled=sampled,
            responded=draws.random(len(sampled)) < 0.9,
            busy_s=np.full(len(sampled), 30.0),
            start_s=60.0 * round_number,
            end_s=60.0 * (round_number + 1),
        )


def main(rounds: int = 20) -> float:
    """Trains with the clock; returns the loss of the last round."""
    config = fj.Config.from_flat(rounds=rounds)
    dataset = fj.load_dataset("synthetic", synthetic={"users": 200, "items": 300})
    clock = Turns(dataset.num_users, turns=10)
    simulation = fj.make_simulation(config, dataset, participation=clock)
    run, _ = fj.train(simulation)
    last = run.evaluations[-1]
    print(f"round {last['round']}: loss {last['loss']:.4f}, {last['participants']:.1f} clients")
    return last["loss"]


if __name__ == "__main__":
    main()
