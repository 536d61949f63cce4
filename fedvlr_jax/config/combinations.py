"""Combinations of options that are refused, each with one line that says what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedvlr_jax.config.federation import SUMS
from fedvlr_jax.config.groups import check_groups
from fedvlr_jax.errors import InputError
from fedvlr_jax.registry import RULES

if TYPE_CHECKING:
    from fedvlr_jax.config import Config


def check_combinations(config: Config) -> None:
    """Raises InputError for options of different groups that cannot be combined.

    --aggregation=auto is resolved before.
    """
    _check_hostile(config)
    _check_secure(config)
    _check_buffer(config)
    _check_download(config)
    check_groups(config)
    if config.fleet.has_clock and config.federation.sampling == "poisson":
        raise InputError(
            "--sampling=poisson: the simulated clock chooses the clients; give --sampling=fixed"
        )
    privacy, rule = config.privacy, config.federation.aggregation
    if (noise := config.init.init_noise_multiplier) and privacy.privacy != "central":
        raise InputError(
            f"--init_noise_multiplier={noise}: needs --privacy=central, where the exchanges of "
            "--init=ease and spectral have noise"
        )
    if privacy.privacy != "none":
        _check_private(config)
        return
    if privacy.noise_multiplier and privacy.noise == "central" and rule != "fixed_mean":
        raise InputError(
            f"--noise=central: --aggregation={rule} does not bound the influence of one "
            "client; use --aggregation=fixed_mean"
        )
    if privacy.noise_multiplier and privacy.noise == "client" and rule not in SUMS:
        raise InputError(
            f"--noise_multiplier={privacy.noise_multiplier}: the simulator draws the clients' "
            f"noise once, for their sum, and --aggregation={rule} does not sum; use one of "
            f"{', '.join(SUMS)}"
        )


def _check_hostile(config: Config) -> None:
    """Refuses more hostile clients than the rule withstands, and options that forged or
    compressed uploads do not support."""
    rule, share = config.federation.aggregation, config.attack.hostile_share
    smaller = config.fleet.compression
    if smaller and rule not in SUMS:
        raise InputError(
            f"{smaller}: --aggregation={rule} does not commute with the compression; use one "
            f"of {', '.join(SUMS)}"
        )
    if smaller and config.attack.attack != "none":
        raise InputError(f"{smaller}: forged uploads are not compressed; give 0")
    if config.privacy.noise_multiplier and (config.fleet.upload_bits or config.fleet.upload_rows):
        raise InputError(
            f"{smaller}: the simulator draws the clients' noise for their sum, which is not "
            "compressed; give --noise_multiplier=0"
        )
    if config.attack.attack != "none" and rule == "int32":
        raise InputError(
            f"--aggregation=int32: with --attack={config.attack.attack} the server sums the "
            "uploads that are finite in floating point, so the bits depend on the devices; "
            "give --aggregation=float32"
        )
    share /= 1 + share
    most = RULES[rule].withstands
    if config.attack.attack != "none" and share >= most:
        raise InputError(
            f"--hostile_share={config.attack.hostile_share}: {share:.0%} of all clients are "
            f"hostile, but --aggregation={rule} withstands less than {most:.0%}; give a share "
            f"below {most / (1 - most):.2g}"
        )


def _check_secure(config: Config) -> None:
    """Refuses options that a secure sum does not support."""
    if config.federation.aggregation != "secure":
        return
    if config.attack.attack != "none":
        raise InputError(
            f"--aggregation=secure: --attack={config.attack.attack} needs a server that sees "
            "each upload, but a secure sum shows only the sum; give another rule"
        )
    if config.fleet.upload_format != "dense":
        raise InputError(
            f"--aggregation=secure: masks are on every row, so --upload_format="
            f"{config.fleet.upload_format} saves nothing; give dense"
        )
    if config.fleet.has_clock and not config.federation.cohort:
        raise InputError(
            "--aggregation=secure: with a simulated clock --secure_threshold is a share of "
            "--cohort; give --cohort"
        )
    if config.privacy.noise_multiplier and config.privacy.privacy == "none":
        raise InputError(
            f"--noise_multiplier={config.privacy.noise_multiplier}: noise inside "
            "--aggregation=secure is discrete and has a statement; give --privacy=distributed"
        )


def _check_buffer(config: Config) -> None:
    """Refuses options that asynchronous rounds do not support."""
    if not config.fleet.buffer:
        return
    federation, privacy = config.federation, config.privacy
    flag = f"--buffer={config.fleet.buffer}"
    if not federation.cohort:
        raise InputError(f"{flag}: needs --cohort, the clients that train at a time")
    if config.run.store != "device":
        raise InputError(f"{flag}: works with --store=device, not --store={config.run.store}")
    if federation.aggregation not in SUMS:
        raise InputError(
            f"{flag}: the server sums uploads of several versions by weights, which --aggregation="
            f"{federation.aggregation} does not; use one of {', '.join(SUMS)}"
        )
    if config.defense.active:
        raise InputError(
            f"{flag}: clients on several versions of the server do not know the same popular "
            "items; give --defense_similarity=0 --defense_distance=0"
        )
    if config.attack.attack != "none":
        raise InputError(
            f"{flag}: the attacks are defined for synchronous rounds; give --attack=none or "
            "--buffer=0"
        )
    if privacy.privacy != "none" or privacy.noise_multiplier:
        raise InputError(
            f"{flag}: stale uploads have no privacy statement and no noise; give "
            "--privacy=none --noise_multiplier=0"
        )


def _check_download(config: Config) -> None:
    """Refuses a partial download where it saves nothing, or where it undoes a guarantee."""
    if config.fleet.download_rows == "all":
        return
    flag = f"--download_rows={config.fleet.download_rows}"
    if config.federation.negatives == "expected":
        raise InputError(
            f"{flag}: with --negatives=expected a client needs every row; give "
            "--negatives=sampled or --download_rows=all"
        )
    if config.federation.aggregation == "secure" or config.privacy.privacy != "none":
        raise InputError(
            f"{flag}: a client asks for the rows of its history, so --aggregation=secure and "
            "--privacy hide nothing; give --download_rows=all"
        )


def _check_private(config: Config) -> None:
    """Refuses combinations with --privacy whose rounds have no bounded sensitivity."""
    privacy, federation = config.privacy, config.federation
    if config.attack.attack != "none":
        raise InputError(
            f"--privacy={privacy.privacy}: --attack={config.attack.attack} forges uploads after "
            "clipping, so no bound holds; give only one of the two"
        )
    if smaller := config.fleet.compression:
        raise InputError(
            f"--privacy={privacy.privacy}: the ledger cannot account for {smaller}; give 0"
        )
    if federation.matmul_precision != "float32":
        raise InputError(
            f"--matmul_precision={federation.matmul_precision}: rounds the sum of the uploads, but "
            f"--privacy={privacy.privacy} needs uploads as long as their clipped norms; give "
            "float32"
        )
    if config.fleet.has_clock:
        raise InputError(
            f"--privacy={privacy.privacy}: the ledger cannot account for the sampling of a "
            "simulated clock; use --participation=always without --deadline_s and "
            "--over_selection"
        )
    rule = "secure" if privacy.privacy == "distributed" else "fixed_mean"
    if federation.aggregation != rule:
        why = "the clients' noise protects only a secure sum"
        if privacy.privacy != "distributed":
            why = "the influence of one client depends on the others"
            if federation.aggregation == "secure":
                why = "the noise is not discrete; --privacy=distributed has discrete noise"
        raise InputError(
            f"--privacy={privacy.privacy}: with --aggregation={federation.aggregation} {why}; "
            f"use --aggregation={rule}, or leave it out"
        )
    if privacy.noise_cohort_size and not (
        privacy.privacy == "central" and federation.sampling == "poisson"
    ):
        raise InputError(
            f"--noise_cohort_size={privacy.noise_cohort_size}: describes a Poisson cohort "
            "under central privacy; give --privacy=central --sampling=poisson, or 0"
        )
    if privacy.noise_bands > 1 and (federation.sampling != "poisson" or federation.cohort_places):
        raise InputError(
            f"--noise_bands={privacy.noise_bands}: groups of clients take turns, each a whole "
            "Poisson sample; give --sampling=poisson --cohort_places=0"
        )
    if 0 < privacy.noise_cohort_size < federation.cohort:
        raise InputError(
            f"--noise_cohort_size={privacy.noise_cohort_size}: fewer than "
            f"--cohort={federation.cohort}"
        )
