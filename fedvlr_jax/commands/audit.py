"""Measures a lower bound of the epsilon of a private run, and compares it with the claimed epsilon.

    fedvlr audit --privacy=central --clip_norm=0.1 --target_epsilon=8 --rounds=20 --workdir=runs/a

The command takes the flags of fedvlr train, with --privacy. A canary is a client whose upload is
easy to detect. The command draws each release --trials times with the canary and --trials times
without it. It learns an attack on one half of the draws and measures it on the other half:

- the exchanges before the first round, with --init=ease or spectral: their noisy sums, where all
  histories but the canary's are empty.
- one round: the clipping, the rule and the noise of the flags, as in the compiled round; all
  uploads but the canary's are zero.
- all rounds: the canary under the sampling of the flags, for an attacker that knows all other
  uploads. They do not include the exchanges.

A lower bound above the claim refutes the claim, at the stated confidence; the exit status is then
1. A bound below the claim proves nothing, because a better attack may exist. The command writes
audit.json, .csv and .md into --workdir.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from absl import flags
from scipy import sparse

from fedvlr_jax.commands.launching.config_flags import config_from_flags, note_unused
from fedvlr_jax.commands.one_run.runs import load, required_workdir
from fedvlr_jax.commands.tables.tables import write_table
from fedvlr_jax.config import Config, InitConfig
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.private_ease import noisy_gram
from fedvlr_jax.federated.private_initialization import (
    answers,
    noise_generator,
    noisy_exchanges,
)
from fedvlr_jax.privacy.audit import (
    Audit,
    Claim,
    Release,
    audit,
    audit_draws,
    canary_rounds,
    local_release,
    mixture_score,
    round_release,
    secure_release,
)
from fedvlr_jax.privacy.release import release_of
from fedvlr_jax.privacy.secure_rounds import secure_cohort
from fedvlr_jax.report.folder import Table
from fedvlr_jax.simulation import Simulation, make_simulation

FLAGS = flags.FLAGS
# Length of the canary's upload before clipping, in units of the bound.
STRENGTH = 100.0
# Canaries of one draw of the exchanges.
CANARIES = 100


def audited_round(simulation: Simulation) -> Release:
    """The release of one round, with the aggregator of the simulation."""
    config, users = simulation.config, simulation.population.num_users
    uplink, reduce, noise, *_ = simulation.task.aggregator
    kind = config.privacy.privacy
    if kind == "local":
        return local_release(uplink, noise, strength=STRENGTH)
    if kind == "distributed":
        shares = secure_cohort(config, users).shares
        return secure_release(uplink, reduce, clients=shares, strength=STRENGTH)
    clients = config.federation.cohort or users
    return round_release(
        uplink, reduce.weights, noise, clients=clients, responding=clients - 1, strength=STRENGTH
    )


def audited_exchanges(init: InitConfig, *, there: bool, trials: int, seed: int) -> np.ndarray:
    """Draws of the exchanges of --init=ease or spectral, float64 [trials, D].

    CANARIES clients who share no item are as many independent trials. Of --init=ease a draw is the
    noisy matrix of the canary's items. Of --init=spectral it is, for each exchange, the product of
    the noisy sum with the canary's answer, which follows from the sum before it.

    Args:
      there: whether each canary has its two items; otherwise its history is empty too.
    """
    canaries = sparse.kron(sparse.eye_array(CANARIES), [[1.0, 1.0]], format="csr")
    histories, draws = canaries * float(there), noise_generator(2 * seed + there)
    multiplier = init.init_noise_multiplier

    def of_ease() -> np.ndarray:
        gram = noisy_gram(histories, multiplier, draws)
        blocks = gram.reshape(CANARIES, 2, CANARIES, 2)
        return blocks[np.arange(CANARIES), :, np.arange(CANARIES)].reshape(CANARIES, 4)

    def of_spectral() -> np.ndarray:
        seen = []
        for basis, noisy in noisy_exchanges(
            histories, 2, exchanges=init.init_exchanges, multiplier=multiplier, draws=draws
        ):
            rows, projected = answers(canaries, basis)
            seen.append(np.sum((rows @ noisy) * projected, axis=1))
        return np.stack(seen, axis=1)

    draw = of_ease if init.init == "ease" else of_spectral
    return np.concatenate([draw() for _ in range(-(-trials // CANARIES))])[:trials]


def audits(
    simulation: Simulation, *, trials: int, confidence: float, seed: int = 0
) -> dict[str, Audit]:
    """The audits of the exchanges, if there are any, of one round, and of all rounds."""
    from fedvlr_jax.privacy import accounting  # The import takes a second or two.

    config, users = simulation.config, simulation.population.num_users
    privacy, rounds = config.privacy, config.federation.rounds
    release = release_of(config, users)
    delta, z = privacy.target_delta, privacy.noise_multiplier
    found = {}
    if release.exchanges:
        outside, inside = (
            audited_exchanges(config.init, there=there, trials=trials, seed=seed)
            for there in (False, True)
        )
        claim = Claim(accounting.epsilon(release, z, 0, delta).best, delta)
        found["exchanges"] = audit_draws(inside, outside, claim, confidence=confidence)
        release = release._replace(exchanges=0)
    given: dict[str, Any] = {"trials": trials, "confidence": confidence, "seed": seed}
    unsampled = release._replace(sampler="everyone", cohort=users, population=users, places=users)
    if release.sampler in ("local", "distributed"):
        unsampled = release
    claim = Claim(accounting.epsilon(unsampled, z, 1, delta).best, delta)
    found["one round"] = audit(audited_round(simulation), claim, **given)
    # A replaced user moves a sum by twice the bound; who is asked does not count without a sampler.
    shift = 2.0 if release.sampler in ("local", "fixed") else 1.0
    q = release.probability if release.sampler in ("poisson", "fixed") else 1.0
    claim = Claim(accounting.epsilon(release, z, rounds, delta).best, delta)
    drawn, score = canary_rounds(q, shift, rounds, z), mixture_score(q, shift, z)
    found["all rounds"] = audit(drawn, claim, score=score, **given)
    return found


def check(config: Config, trials: int, confidence: float) -> None:
    """Raises InputError for flags that the audit does not support."""
    if config.privacy.privacy == "none":
        raise InputError(
            "--privacy=none: claims no epsilon, so there is nothing to audit; give central, local "
            "or distributed"
        )
    if config.privacy.noise_cohort_size:
        raise InputError(
            f"--noise_cohort_size={config.privacy.noise_cohort_size}: the statement is about a "
            "deployment, but the audit measures this run; give 0"
        )
    if config.privacy.noise_bands > 1:
        raise InputError(
            f"--noise_bands={config.privacy.noise_bands}: the audit draws each round "
            "independently, without the noise of earlier rounds; give 1"
        )
    if trials < 1000:
        raise InputError(f"--trials={trials}: give at least 1000; fewer prove no bound")
    if not 0.5 <= confidence < 1:
        raise InputError(f"--confidence={confidence}: give at least 0.5 and less than 1")


def main() -> None:
    config = config_from_flags()
    folder = required_workdir(config, "runs/audit")
    check(config, FLAGS.trials, FLAGS.confidence)
    simulation = make_simulation(config, load(config))
    note_unused(config)
    found = audits(
        simulation, trials=FLAGS.trials, confidence=FLAGS.confidence, seed=config.run.seed
    )
    lines = [
        {"release": name, **each._asdict(), "refuted": each.refuted} for name, each in found.items()
    ]
    number = lambda value: f"{value:.3f}" if math.isfinite(value) else "infinite"
    rows = [
        [
            *(line["release"], number(line["lower"]), number(line["claimed"])),
            *(f"{line[name]:.4f}" for name in ("true_alarms", "false_alarms")),
            "REFUTED" if line["refuted"] else "not refuted",
        ]
        for line in lines
    ]
    headings = ("release", "epsilon at least", "claimed", "true alarms", "false alarms", "claim")
    caption = (
        f"--privacy={config.privacy.privacy}, delta {config.privacy.target_delta:g}, "
        f"{FLAGS.trials} trials each, confidence {FLAGS.confidence:g}; a bound below the claim "
        "proves nothing"
    )
    table = Table("audit of the claimed epsilon", headings, rows, caption, chosen=False)
    write_table(table, lines, folder / "audit")
    if any(line["refuted"] for line in lines):
        sys.exit(1)
