"""The server's treatment of the uploads of a round: a chain of parts.

    uploads -> uplink (a factor each) -> reduce (one upload) -> noise -> pull-back -> server

`make_simulation(..., aggregator=)` accepts one that was made elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import optax

from fedvlr_jax.attacks import Attack
from fedvlr_jax.config import Config
from fedvlr_jax.federated.server_optimizer import server_optimizer
from fedvlr_jax.fleet.clocks import expected_reports
from fedvlr_jax.privacy.mechanism import private_parts
from fedvlr_jax.privacy.secure_rounds import ring_of
from fedvlr_jax.reduce import REDUCTIONS, Reduce
from fedvlr_jax.reduce.mean import of_whole_uploads
from fedvlr_jax.reduce.registry import RuleOptions
from fedvlr_jax.reduce.robust import finite_only
from fedvlr_jax.types import Rates
from fedvlr_jax.uplink import (
    Compression,
    Needs,
    Noise,
    UplinkTransform,
    adaptive_clip,
    central_noise,
    client_noise,
    fixed_clip,
    identity,
    low_rank,
    no_noise,
)


class Aggregator(NamedTuple):
    """From the uploads of a cohort to the server's step.

    Attributes:
      uplink: weighs each upload. reduce: combines all uploads into one.
      noise: added to the combined upload, before the pull-back through the operators.
      server: rates -> the optimizer of the server's state.
      attack: replaces the uploads of hostile clients, after `uplink`; None without hostile
        clients.
      compress: compresses each upload, after `uplink`; None: uploads are whole.
    """

    uplink: UplinkTransform
    reduce: Reduce
    noise: Noise
    server: Callable[[Rates], optax.GradientTransformation]
    attack: Attack | None = None
    compress: Compression | None = None

    @property
    def needs(self) -> Needs:
        """The form of the uploads that a plan must give."""
        compressed = Needs.SUM if self.compress is None else Needs.WHOLE
        return max(self.uplink.needs, self.reduce.needs, compressed)

    def attacked(self, attack: Attack) -> Aggregator:
        """The same with hostile clients. The server then discards uploads that are not finite."""
        return self._replace(attack=attack, reduce=finite_only(self.reduce))


def make_aggregator(config: Config, num_users: int, expected: float | None = None) -> Aggregator:
    """The aggregator that the flags describe.

    Args:
      config: resolved, see `Config.resolved`. num_users: clients of the population.
      expected: the fixed denominator of `fixed_mean` and of central noise; by default the number of
        reports that the flags give on average.

    Raises:
      InputError: a secure sum or a private mechanism cannot have these options.
    """
    federation, privacy = config.federation, config.privacy
    if expected is None:
        expected = expected_reports(config, num_users)
    options = RuleOptions(expected=expected, byzantine_share=federation.byzantine_share)
    if federation.aggregation == "secure":
        options = options._replace(ring=ring_of(config, num_users))
    uplink = identity()
    if privacy.clip_quantile:
        uplink = adaptive_clip(privacy.clip_norm, privacy.clip_quantile)
    elif privacy.clip_norm:
        uplink = fixed_clip(privacy.clip_norm)
    noise = no_noise()
    if privacy.privacy != "none":
        uplink, noise = private_parts(config, expected)
    elif privacy.noise_multiplier and privacy.noise == "central":
        noise = central_noise(privacy.noise_multiplier, expected)
    elif privacy.noise_multiplier:
        noise = client_noise(privacy.noise_multiplier)
    if config.fleet.upload_rank:
        noise = low_rank(config.fleet.upload_rank, noise)
    bits, rows = config.fleet.upload_bits, config.fleet.upload_rows
    rule = REDUCTIONS[federation.aggregation](options)
    return Aggregator(
        compress=Compression(bits, rows) if bits or rows else None,
        uplink=uplink,
        reduce=of_whole_uploads(rule) if config.groups.active else rule,
        noise=noise,
        server=lambda rates: server_optimizer(federation.server_optimizer, rates),
    )
