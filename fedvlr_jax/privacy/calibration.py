"""Resolves the flags of --privacy before training: the noise, and the number of rounds."""

from __future__ import annotations

import dataclasses
import math

from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.privacy.release import release_of

# The share of --target_epsilon that the exchanges before the first round spend by themselves.
EXCHANGES_SHARE = {"spectral": 0.5, "ease": 0.9}
# Standard deviation of the noise on the share of unclipped uploads (Andrew et al. 2021).
SHARE_DEVIATION = 1 / 20


def resolved(config: Config, num_users: int) -> Config:
    """`config` with the noise for --target_epsilon, and at most the rounds that this budget allows.

    A given noise multiplier stays, so that a resumed run draws the same noise. Without --privacy,
    returns `config` itself.

    Raises:
      InputError: there is no statement for these flags and this number of users.
    """
    privacy = config.privacy
    if privacy.privacy == "none":
        return config
    config = _with_exchanges(config, num_users)
    release, delta, target = release_of(config, num_users), privacy.target_delta, _target(config)
    if release.cohort > release.population:
        raise InputError(
            f"--noise_cohort_size={release.cohort}: more than the {release.population} users; "
            "give fewer, or --population"
        )
    if release.probability > 1:
        raise InputError(
            f"--noise_bands={release.bands}: a group has {release.population // release.bands} of "
            f"the {release.population} users, fewer than --cohort={release.cohort}; give fewer "
            "bands, or a smaller cohort"
        )
    if delta >= 1 / release.population:
        raise InputError(
            f"--target_delta={delta}: permits to reveal all data of one of {release.population} "
            f"users; give less than 1 / {release.population} = {1 / release.population:.3g}"
        )
    # Imported only for private runs, because the import takes a second or two.
    from fedvlr_jax.privacy import accounting

    rounds = config.federation.rounds
    if release.exchanges and (before := accounting.spent(release, 1.0, 0, delta)) > target:
        raise InputError(
            f"--init_noise_multiplier={release.exchange_multiplier:g}: the {release.exchanges} "
            f"exchanges of --init={config.init.init} alone spend an epsilon of {before:.4g} of "
            f"--target_epsilon={target:g}; give more noise"
        )
    multiplier = privacy.noise_multiplier or accounting.calibrate(release, rounds, target, delta)
    upload_multiplier(config, multiplier, release.cohort)
    if math.isfinite(target):
        rounds = accounting.affordable(release, multiplier, target, delta, rounds)
    if not rounds:
        raise InputError(
            f"--target_epsilon={target}: one round with --noise_multiplier={multiplier:g} passes "
            "it; give more noise, or 0 for as much as the target needs"
        )
    return dataclasses.replace(
        config,
        federation=dataclasses.replace(config.federation, rounds=rounds),
        privacy=dataclasses.replace(privacy, noise_multiplier=multiplier),
    )


def _with_exchanges(config: Config, num_users: int) -> Config:
    """`config` with the noise of the exchanges of the closed form, if the flags do not give it."""
    init, privacy = config.init, config.privacy
    release = release_of(config, num_users)
    if not release.exchanges or release.exchange_multiplier:
        return config
    noise = privacy.noise_multiplier
    if privacy.target_epsilon:
        from fedvlr_jax.privacy import accounting

        target, delta = privacy.target_epsilon, privacy.target_delta
        share = EXCHANGES_SHARE[init.init]
        noise = accounting.calibrate_exchanges(release, target, delta, share)
    return dataclasses.replace(config, init=dataclasses.replace(init, init_noise_multiplier=noise))


def _target(config: Config) -> float:
    return config.privacy.target_epsilon or math.inf


def upload_multiplier(config: Config, multiplier: float, clients: float) -> float:
    """The noise on the uploads themselves, in units of their bound.

    With adaptive clipping a round also releases the share of unclipped uploads. A client moves its
    sum by 1/2, with noise of sigma_b = clients / 20. If the uploads have the multiplier
    (z^-2 - (2 sigma_b)^-2)^-1/2, both together are one Gaussian release of `multiplier` z
    (Andrew et al. 2021, Theorem 1).

    Args:
      clients: the expected clients of a round.

    Raises:
      InputError: the share leaves no noise budget for the uploads.
    """
    if not config.privacy.clip_quantile:
        return multiplier
    count = 2 * SHARE_DEVIATION * clients
    if count <= multiplier:
        raise InputError(
            f"--clip_quantile={config.privacy.clip_quantile}: with {clients:g} clients a round, "
            f"it needs a noise multiplier below {count:g}, but the multiplier is "
            f"{multiplier:.4g}; give 0, or a larger cohort"
        )
    return (multiplier**-2 - count**-2) ** -0.5
