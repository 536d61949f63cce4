"""Groups of clients, and distillation from a group to its clients (GFMFR)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError

if TYPE_CHECKING:
    from fedvlr_jax.config import Config

# Backbones whose clients upload a linear scoring head.
GROUP_BACKBONES = ("fedavg",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupsConfig:
    """Groups of clients and their distillation; docs/groups.md describes them."""

    groups: int = choice(
        0,
        "Number of groups of clients (GFMFR). Above 0: after each round the server groups the "
        "clients by their scoring heads, fits a fusion of the features to each group, and sends "
        "each client the preferences of its group, from which the client distils. Needs "
        "backbone=fedavg, whose clients upload their heads. 0: no groups.",
    )
    group_weight: float = choice(
        1.0,
        "Weight of the distillation in a client's loss in the first rounds. 0: the server groups "
        "the clients, but they do not distil.",
    )
    group_rounds: int = choice(
        100,
        "Round t at which the distillation ends. Its weight falls as cos(pi t / (2 group_rounds)).",
    )
    group_epochs: int = choice(
        20, "Number of epochs, in each round, of the server's network that fuses the features."
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, "groups", 0)
        check_range(self, "group_weight", 0)
        check_range(self, "group_rounds", 1)
        check_range(self, "group_epochs", 1)
        if self.groups == 1:
            raise InputError("--groups=1: give at least 2 groups, or 0 for none")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not self.groups and value != field.default:
                raise InputError(f"--{field.name}={value}: needs --groups above 0")

    @property
    def active(self) -> bool:
        """Whether the server groups the clients."""
        return self.groups > 0


def check_groups(config: Config) -> None:
    """Raises InputError for options that groups of clients do not support."""
    if not config.groups.active:
        return
    model, federation, fleet = config.model, config.federation, config.fleet
    flag = f"--groups={config.groups.groups}"
    if model.backbone not in GROUP_BACKBONES:
        raise InputError(
            f"{flag}: the server groups clients by their scoring heads, but those of --backbone="
            f"{model.backbone} are private; use {', '.join(GROUP_BACKBONES)}"
        )
    if model.fusion == "bilevel":
        raise InputError(
            f"{flag}: --fusion=bilevel gives several views of an item, but the server fits one "
            "vector of an item to a group; use none, vbpr, mlp or shared"
        )
    if model.history_weight:
        raise InputError(
            f"{flag}: the preferences of a group have no history term; give --history_weight=0"
        )
    closed = config.init.init in ("ease", "spectral")
    if federation.loss == "softmax" or (closed and federation.loss == "auto"):
        raise InputError(
            f"{flag}: the distillation compares probabilities of single items, but --loss=softmax "
            "has none; give --loss=bce"
        )
    if federation.server_optimizer == "none":
        raise InputError(
            f"{flag}: --server_optimizer=none is the reference without an exchange; give --groups=0"
        )
    if 0 < federation.cohort < config.groups.groups:
        raise InputError(f"{flag}: more than --cohort={federation.cohort}; give fewer")
    if federation.aggregation in ("int32", "secure"):
        raise InputError(
            f"{flag}: the server groups individual uploads, but --aggregation="
            f"{federation.aggregation} has only their sum; use another rule"
        )
    _check_uploads(config, flag)
    if fleet.buffer:
        raise InputError(
            f"{flag}: with --buffer={fleet.buffer} the heads of a step belong to several versions "
            "of the server; give --buffer=0"
        )


def _check_uploads(config: Config, flag: str) -> None:
    """Refuses options that change or protect individual uploads."""
    if config.attack.attack != "none":
        raise InputError(
            f"{flag}: --attack={config.attack.attack} forges uploads, but no scoring heads; give "
            "--attack=none"
        )
    if smaller := config.fleet.compression:
        raise InputError(
            f"{flag}: the server needs the whole upload of each client; {smaller} hides a part of "
            "it, give 0"
        )
    privacy = config.privacy
    if privacy.privacy != "none" or privacy.noise_multiplier:
        raise InputError(
            f"{flag}: the server sees individual uploads and heads without noise; give "
            "--privacy=none --noise_multiplier=0"
        )
