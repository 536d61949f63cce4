"""Values for the options that depend on other options: what `auto` stands for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from fedvlr_jax.registry import OPERATORS

if TYPE_CHECKING:
    from fedvlr_jax.config import Config, PrivacyConfig

# Views that are not rows of the ID table or of one modality.
MAPPED = frozenset({"id", *OPERATORS})
FUSIONS_OF_ROWS = ("none", "vbpr", "shared", "bilevel")


class Tuned(NamedTuple):
    """Values of the options that `auto` resolves together with --init."""

    loss: str
    client_lr: float
    server_lr_items: float
    width: int


FROM_RANDOM = Tuned("bce", 3.0, 0.05, 64)
FROM_CLOSED_FORM = Tuned("softmax", 1.0, 0.002, 128)
# With a private vector for an item's row.
BACKBONES_OF_ROWS = ("fcf", "pfedrec", "fedrap")


def automatic_values(config: Config) -> dict[str, Any]:
    """The values that the options of `auto` get in `config`, by flag: --init, --aggregation, and
    those that depend on the --init of `config`."""
    tuned = _tuned(config.resolved.init.init)
    rule = automatic_aggregation(config.privacy)
    return {"init": _automatic_init(config), "aggregation": rule, **tuned._asdict()}


def automatic_aggregation(privacy: PrivacyConfig) -> str:
    """The rule of --aggregation=auto."""
    if privacy.privacy == "distributed":
        return "secure"
    central = bool(privacy.noise_multiplier) and privacy.noise == "central"
    return "fixed_mean" if central or privacy.privacy != "none" else "float32"


def resolved(config: Config, *, own_part: bool = False) -> Config:
    """`config` with a value for --init=auto, and for the options that depend on --init.

    Args:
      own_part: a backbone, a fusion, an aggregator or a clock was made elsewhere. Then auto is
        random: nothing is known of its sums.
    """
    init = config.init.init
    if init == "auto":
        init = "random" if own_part else _automatic_init(config)
    tuned = _tuned(init)
    model, federation = config.model, config.federation
    loss = tuned.loss if federation.loss == "auto" else federation.loss
    client_lr = tuned.client_lr if federation.client_lr == -1 else federation.client_lr
    items = (
        tuned.server_lr_items if federation.server_lr_items == -1 else federation.server_lr_items
    )
    return dataclasses.replace(
        config,
        init=dataclasses.replace(config.init, init=init),
        model=dataclasses.replace(model, width=model.width or tuned.width),
        federation=dataclasses.replace(
            federation, loss=loss, client_lr=client_lr, server_lr_items=items
        ),
    )


def _tuned(init: str) -> Tuned:
    return FROM_RANDOM if init == "random" else FROM_CLOSED_FORM


def _automatic_init(config: Config) -> str:
    return "random" if against_ease(config) else "ease"


def against_ease(config: Config) -> list[str]:
    """The flags of `config` that make --init=auto random, in words; empty where it is ease."""
    return [*_without_sums(config), *without_rows(config)]


def _without_sums(config: Config) -> list[str]:
    """The flags with which some clients miss rounds, or uploads are no plain sums.

    The closed form needs sums over all clients before the first round. A run that simulates
    anything else would not have them.
    """
    federation, fleet, privacy = config.federation, config.fleet, config.privacy
    # The rule that follows from the privacy is none of the given flags.
    plain = "float32", "int32", automatic_aggregation(privacy)
    found = {
        "--cohort": federation.cohort,
        "--client_dropout": federation.client_dropout,
        "a simulated clock": fleet.has_clock,
        f"--aggregation={federation.aggregation}": federation.aggregation not in plain,
        f"--privacy={privacy.privacy}": privacy.privacy != "none",
        # All noise needs --clip_norm.
        "--clip_norm": privacy.clip_norm,
        f"--attack={config.attack.attack}": config.attack.attack != "none",
        fleet.compression: fleet.compression,
        "--server_optimizer=none": federation.server_optimizer == "none",
        "--groups": config.groups.active,
    }
    return [flag for flag, active in found.items() if active]


def without_rows(config: Config) -> list[str]:
    """The flags with which no client scores the rows of the ID table with a vector of its own."""
    model = config.model
    views = {name.strip() for name in model.views.split(",")}
    of_rows = views == {"auto"} or ("table" in views and not views & MAPPED)
    found = {
        f"--backbone={model.backbone}": model.backbone not in BACKBONES_OF_ROWS,
        f"--fusion={model.fusion}": model.fusion not in FUSIONS_OF_ROWS,
        f"--views={model.views}": model.fusion in ("shared", "bilevel") and not of_rows,
    }
    return [flag for flag, active in found.items() if active]
