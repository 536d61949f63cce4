"""Clipping and noise of a round under --privacy."""

from __future__ import annotations

from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.privacy.calibration import SHARE_DEVIATION, upload_multiplier
from fedvlr_jax.uplink import (
    Noise,
    UplinkTransform,
    band_coefficients,
    banded_noise,
    central_noise,
    client_noise,
    fixed_clip,
    no_noise,
    private_adaptive_clip,
)


def private_parts(config: Config, expected: float) -> tuple[UplinkTransform, Noise]:
    """The clipping and the noise with which a round is the release of `privacy.release_of`.

    Args:
      expected: the expected number of responses in a round.

    Raises:
      InputError: nothing has computed the noise of --target_epsilon.
    """
    privacy, federation = config.privacy, config.federation
    if not privacy.noise_multiplier:
        raise InputError(
            "--target_epsilon: its noise is not computed yet; see `privacy.calibration.resolved`"
        )
    if privacy.privacy == "local":
        return fixed_clip(privacy.clip_norm), client_noise(privacy.noise_multiplier)
    if privacy.privacy == "distributed":
        # The noise is in the ring sum.
        return fixed_clip(privacy.clip_norm), no_noise()
    accounted = expected
    if privacy.noise_cohort_size:
        accounted = privacy.noise_cohort_size * (1 - federation.client_dropout)
    # The sampled clients: the privacy statement does not use that some of them do not respond.
    sampled = accounted / (1 - federation.client_dropout)
    multiplier = upload_multiplier(config, privacy.noise_multiplier, sampled)
    uplink = fixed_clip(privacy.clip_norm)
    if privacy.clip_quantile:
        # The same noise on the count, in units of the expected responses.
        deviation = SHARE_DEVIATION / (1 - federation.client_dropout)
        uplink = private_adaptive_clip(
            privacy.clip_norm, privacy.clip_quantile, expected, deviation
        )
    if privacy.noise_bands > 1:
        coefficients = band_coefficients(privacy.noise_bands)
        return uplink, banded_noise(multiplier, accounted, coefficients)
    return uplink, central_noise(multiplier, accounted, always=True)
