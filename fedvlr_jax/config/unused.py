"""Flags that act only together with others, and which of the given flags have no effect.

A flag that is not in `ACTS` always acts, or is refused where it would not act.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fedvlr_jax.config.automatic import automatic_values
from fedvlr_jax.registry import ATTACKS, RULES

if TYPE_CHECKING:
    from fedvlr_jax.config import Config


class Condition(NamedTuple):
    """The condition under which a flag acts.

    Attributes:
      holds: whether a config meets it; `auto` has been resolved there.
      otherwise: why the flag has no effect where it does not hold. Flags in braces become values.
    """

    holds: Callable[[Config], bool]
    otherwise: str


class Unused(NamedTuple):
    """A given flag without effect.

    Attributes:
      value: of the flag. why: the condition that does not hold.
    """

    name: str
    value: Any
    why: str

    @property
    def line(self) -> str:
        """One line for a terminal."""
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"--{self.name}={value} has no effect: {self.why}"


# Rules whose result depends on --byzantine_share.
RULES_WITH_SHARE = tuple(name for name, rule in RULES.items() if rule.takes_share)
# Attacks whose uploads do not depend on --attack_strength.
ATTACKS_WITHOUT_STRENGTH = tuple(
    name for name, attack in ATTACKS.items() if not attack.takes_strength
)


def _views(config: Config) -> set[str]:
    return {name.strip() for name in config.model.views.split(",")}


_READ = Condition(
    lambda c: c.data.dataset != "synthetic", "the synthetic data are not read from a folder"
)
_SYNTHETIC = Condition(
    lambda c: c.data.dataset == "synthetic", "--dataset={dataset} is not synthetic"
)
_VIEWS = Condition(
    lambda c: c.model.fusion in ("shared", "bilevel"), "--fusion={fusion} does not use --views"
)
_ROUTER = Condition(lambda c: c.model.fusion == "bilevel", "--fusion={fusion} has no router")
_OPERATORS = Condition(lambda c: c.model.fusion != "none", "--fusion=none has no operators")
_FEDRAP = Condition(lambda c: c.model.backbone == "fedrap", "--backbone={backbone} is not fedrap")
_PRIVATE_HEAD = Condition(
    lambda c: c.model.backbone != "fedavg", "--backbone=fedavg has no private head"
)
_SHARED_HEAD = Condition(
    lambda c: c.model.backbone in ("fedavg", "fedncf"), "--backbone={backbone} has no shared head"
)
_FEDAVG = Condition(lambda c: c.model.backbone == "fedavg", "--backbone={backbone} is not fedavg")
_ITEM_ROWS = Condition(
    lambda c: (
        c.model.backbone in ("pfedrec", "fedrap")
        or (c.model.backbone == "fedavg" and c.model.fedavg_rows == "tuned")
    ),
    "--backbone={backbone} has no private item rows",
)
_DELTA = Condition(
    lambda c: c.federation.upload == "delta", "--upload=gradient trains no copy of the views"
)
_SERVER_STEP = Condition(
    lambda c: c.federation.server_optimizer != "none", "--server_optimizer=none takes no step"
)
# A secure sum has bytes of its own, whatever the server does with it.
_AGGREGATED = Condition(
    lambda c: c.federation.aggregation == "secure" or _SERVER_STEP.holds(c), _SERVER_STEP.otherwise
)
# The noise of clients is on the rows that they did not touch too, and a statement counts every
# release.
_NOISE_ADDED = Condition(
    lambda c: (
        _SERVER_STEP.holds(c)
        or c.privacy.privacy != "none"
        or (c.privacy.noise == "client" and c.federation.negatives == "sampled")
    ),
    _SERVER_STEP.otherwise,
)
_SHARE = Condition(
    lambda c: c.federation.aggregation in RULES_WITH_SHARE,
    "--aggregation={aggregation} does not use it",
)
_CLOSED_FORM = Condition(lambda c: c.init.init != "random", "the initialization is random")
_SPECTRAL = Condition(lambda c: c.init.init == "spectral", "the initialization is {init}")
_EASE = Condition(lambda c: c.init.init == "ease", "the initialization is {init}")
_SEVERAL = Condition(
    lambda c: c.init.init != "ease" or c.privacy.privacy == "none",
    "--init=ease with --privacy={privacy} has one exchange",
)
_FREE_NOISE = Condition(
    lambda c: c.privacy.privacy == "none", "--privacy={privacy} sets the place of the noise"
)
_PRIVACY = Condition(lambda c: c.privacy.privacy != "none", "there is no --privacy")
_NOISE = Condition(lambda c: c.privacy.noise_multiplier > 0, "there is no --noise_multiplier")
_HISTORY_ROUTER = Condition(
    lambda c: c.init.init_router in ("history", "mean"),
    "--init_router={init_router} does not use it",
)
_TOPICS = Condition(
    lambda c: bool(_views(c) & {"auto", "id", "table"}), "the ID is not among --views={views}"
)
_MODALITIES = Condition(
    lambda c: bool(_views(c) - {"id", "table"}), "no modality is among --views={views}"
)
_ATTACK = Condition(lambda c: c.attack.attack != "none", "there is no --attack")
_STRENGTH = Condition(
    lambda c: c.attack.attack not in ATTACKS_WITHOUT_STRENGTH, "--attack={attack} does not use it"
)
_UNIFORM = Condition(
    lambda c: c.fleet.participation == "uniform", "--participation={participation} does not use it"
)
_CLOCK = Condition(
    lambda c: c.fleet.has_clock,
    "there is no simulated clock (--participation, --deadline_s, --over_selection or --buffer)",
)
_TRANSFERS = Condition(
    lambda c: c.fleet.has_clock or c.fleet.upload_rows > 0,
    "there is no simulated clock, and the reported bytes have every format",
)
_BASELINES = Condition(lambda c: c.evaluation.baselines, "the baselines are not evaluated")
_ORDER = Condition(
    lambda c: c.init.init == "ease" or c.data.recency > 0 or c.evaluation.baselines,
    "nothing uses the order: the initialization is {init}, --recency is 0, and there are no "
    "baselines",
)
_DISK = Condition(lambda c: c.run.store == "disk", "--store={store} writes no files")

# Flag -> the condition under which it acts.
ACTS: dict[str, tuple[Condition, ...]] = {
    **dict.fromkeys(("data_root", "duplicates"), (_READ,)),
    **dict.fromkeys(
        ("synthetic_kind", "synthetic_users", "synthetic_items", "synthetic_seed"), (_SYNTHETIC,)
    ),
    "permute_order": (_ORDER,),
    "views": (_VIEWS,),
    **dict.fromkeys(("router_hidden", "router_lr"), (_ROUTER,)),
    **dict.fromkeys(("fedrap_repulsion", "fedrap_l1"), (_FEDRAP,)),
    "fedavg_rows": (_FEDAVG,),
    **dict.fromkeys(("client_lr", "client_decay"), (_PRIVATE_HEAD,)),
    "item_lr": (_ITEM_ROWS,),
    "delta_lr": (_DELTA,),
    "aggregation": (_AGGREGATED,),
    **dict.fromkeys(("server_lr_items", "server_decay"), (_SERVER_STEP,)),
    "server_lr_fusion": (_OPERATORS, _SERVER_STEP),
    "server_lr_head": (_SHARED_HEAD, _SERVER_STEP),
    "byzantine_share": (_SHARE, _SERVER_STEP),
    "init_topics": (_HISTORY_ROUTER, _TOPICS),
    "init_sharpness": (_HISTORY_ROUTER, _MODALITIES),
    "init_exchanges": (_CLOSED_FORM, _SEVERAL),
    "init_score": (_CLOSED_FORM,),
    **dict.fromkeys(("init_user_power", "init_item_power"), (_SPECTRAL,)),
    "init_shrinkage": (_SPECTRAL,),
    **dict.fromkeys(("init_ridge", "init_content", "init_normalization"), (_EASE,)),
    **dict.fromkeys(("init_recency", "init_ials", "init_transitions"), (_EASE,)),
    "target_delta": (_PRIVACY,),
    "noise": (_FREE_NOISE, _NOISE),
    "noise_multiplier": (_NOISE_ADDED,),
    **dict.fromkeys(("hostile_share", "target_items", "num_targets", "attack_seed"), (_ATTACK,)),
    "attack_strength": (_ATTACK, _STRENGTH, _SERVER_STEP),
    "available_share": (_UNIFORM,),
    "speed_activity_correlation": (_CLOCK,),
    "upload_format": (_TRANSFERS,),
    "tune_baselines": (_BASELINES,),
    "store_dir": (_DISK,),
}


def why_unused(config: Config, name: str) -> str:
    """Why the flag `name` has no effect on a run of `config`; "" if it has one."""
    now = config.resolved
    for condition in ACTS.get(name, ()):
        if not condition.holds(now):
            return condition.otherwise.format(**now.flat)
    return ""


def unused(config: Config) -> list[Unused]:
    """The given flags that have no effect on a run of `config`.

    A flag counts as given when its value is neither the default nor the value that `auto` stands
    for.
    """
    values, defaults = config.flat, type(config)().flat
    automatic = automatic_values(config)
    found = []
    for name in ACTS:
        expected = (defaults[name], automatic.get(name, defaults[name]))
        if values[name] not in expected and (why := why_unused(config, name)):
            found.append(Unused(name, values[name], why))
    return found


def unused_by_all(configs: Sequence[Config], names: Iterable[str]) -> list[Unused]:
    """Those of the flags `names` that have no effect on any run of `configs`."""
    found = []
    for name in names:
        reasons = [why_unused(config, name) for config in configs]
        if reasons and all(reasons):
            found.append(Unused(name, configs[0].flat[name], reasons[0]))
    return found
