"""Everything that can be chosen, as frozen dataclasses validated when built.

Each field carries its help text; the command-line flags are made from these fields, so
that a choice has one name, one default and one explanation.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from typing import Any

from fedvlr_jax.errors import InputError
from fedvlr_jax.selection import HEADLINE, Selection, parse_selection
from fedvlr_jax.types import Rates

SPLIT_NAMES = ("auto", "predefined", "leave-one-out", "global-time")
DUPLICATE_NAMES = ("merge", "error")
BACKBONE_NAMES = ("fedavg", "fcf", "fedncf", "pfedrec", "fedrap")
FUSION_NAMES = ("none", "vbpr", "mlp", "shared", "bilevel")
PLAN_NAMES = ("auto", "dense", "factored", "catalogue", "gathered")
PRECISION_NAMES = ("float32", "tf32", "bf16")
OPTIMIZER_NAMES = ("none", "sgd", "momentum", "adam", "yogi")
LOSS_NAMES = ("bce", "softmax")
# The rules that are sums of the uploads, by weights known before training.
_SUMS = ("float32", "int32", "fixed_mean")
AGGREGATION_NAMES = (
    *_SUMS,
    *("median", "trimmed_mean", "krum", "multi_krum", "geometric_median"),
    *("norm_bound", "bulyan", "row_median"),
)
ATTACK_NAMES = (
    "none",
    "honest",
    *("sign_flip", "scaling", "label_flip", "not_a_number", "alie", "ipm", "ua_fedrec"),
    *("spattack", "cluster", "a_ra", "a_hum", "fedrec", "pieck_ipe", "pieck_uea"),
)
SYNTHETIC_KINDS = ("planted", "additive", "equal", "no-content")
SAMPLING_NAMES = ("fixed", "poisson")
PRIVACY_NAMES = ("none", "central", "local")
START_NAMES = ("random", "spectral", "ease")
START_ROUTER_NAMES = ("uniform", "history")
DATA_ROOT = os.environ.get("FEDVLR_DATA") or "data"


def _field(
    default: Any,
    help: str,
    choices: tuple[str, ...] | None = None,
    *,
    free: bool = False,
    path: bool = False,
) -> Any:
    """A choice.

    Args:
      free: a saved run may go on with another value, for what was computed so far does not
        depend on it.
      path: it names a file or a folder; see `expanded`.
    """
    metadata = {"help": help, "choices": choices, "free": free, "path": path}
    return dataclasses.field(default=default, metadata=metadata)


def expanded(path: str) -> str:
    """The path with a leading ~ or ~user replaced by that user's home folder.

    Raises:
      InputError: no such folder is known.
    """
    whole = os.path.expanduser(path)
    if whole.startswith("~"):
        home = whole.split("/")[0]
        raise InputError(f"no home folder is known for {home}; give the whole path, or ./{whole}")
    return whole


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"--{name}={value}: not known; choose one of {', '.join(choices)}")


# What counts as a value of a field whose default is of the type; numbers of NumPy do.
_KINDS: dict[type, Any] = {
    bool: bool,
    int: numbers.Integral,
    float: numbers.Real,
    str: str,
}


def _check_fields(group: Any) -> None:
    """Holds every field to its type and, where it names them, to its choices."""
    for field in dataclasses.fields(group):
        value: Any = getattr(group, field.name)
        kind = type(field.default)
        if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind is not bool):
            raise InputError(f"--{field.name}={value!r}: give a value of type {kind.__name__}")
        if field.metadata["choices"]:
            check_choice(field.name, value, field.metadata["choices"])
        if field.metadata["path"]:
            try:
                object.__setattr__(group, field.name, expanded(value))
            except InputError as error:
                raise InputError(f"--{field.name}={value}: {error}") from None


def _check_range(config: Any, name: str, low: float, high: float = math.inf) -> None:
    value = getattr(config, name)
    if isinstance(value, int):
        high = min(high, 2**31 - 1)  # They are int32 on the device.
    inside = low <= value <= high
    if not (math.isfinite(value) and inside):
        bound = f"at least {low:g}"
        bound += f" and at most {high:.10g}" if math.isfinite(high) else ""
        raise InputError(f"--{name}={value}: out of range; give a finite number of {bound}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, and how it is split."""

    dataset: str = _field(
        "synthetic", "Folder below --data_root to read, or 'synthetic' for the embedded data."
    )
    data_root: str = _field(
        DATA_ROOT,
        "Folder that holds the data sets; the environment variable FEDVLR_DATA sets the default.",
        free=True,
        path=True,
    )
    split: str = _field(
        "auto",
        "Split rule; 'auto' takes the split column where there is one, else leave-one-out.",
        SPLIT_NAMES,
    )
    duplicates: str = _field("merge", "What to do with repeated interactions.", DUPLICATE_NAMES)
    recency: float = _field(
        0.0,
        "How fast the older items of a client's history lose weight, in its loss, its pooled "
        "history and its vector at --start=spectral: an item with a newer ones counts as "
        "(1 + a)^-recency, scaled to a mean of 1; 0: all count alike.",
    )
    permute_features: int = _field(
        0,
        "Above 0: the rows of all features change places, by this seed. A control: what is gained "
        "with such features is no gain by content.",
    )
    synthetic_kind: str = _field(
        "planted",
        "planted: each user weighs id, text and image, by clusters; additive: the same weights "
        "without clusters; equal: all users weigh alike; no-content: features say nothing.",
        SYNTHETIC_KINDS,
    )
    synthetic_users: int = _field(1000, "Users of the synthetic data.")
    synthetic_items: int = _field(2000, "Items of the synthetic data.")
    synthetic_seed: int = _field(0, "Seed of the synthetic data (apart from the run's seed).")

    def __post_init__(self):
        _check_fields(self)
        for name in ("permute_features", "synthetic_users", "synthetic_items", "synthetic_seed"):
            _check_range(self, name, 0)
        _check_range(self, "recency", 0, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone, the fusion in front of it, and their sizes."""

    backbone: str = _field("fcf", "Where each leaf lives, and the score.", BACKBONE_NAMES)
    fusion: str = _field(
        "bilevel",
        "How an item's vector is made of its views. shared, the control of bilevel, weighs the "
        "same views by one learned mixture for all clients.",
        FUSION_NAMES,
    )
    views: str = _field(
        "auto",
        "Views of fusion=bilevel and shared; auto: id, or table where --start is not random, and "
        "every modality of the data set. Or, "
        "comma-separated: sum, mixture, mlp, gate, attention, "
        "cross_attention, id, the name of a modality of the data set, or table (the rows of "
        "the ID table as they are, where id maps and normalises them).",
    )
    width: int = _field(64, "Latent width d of the ID table and of every view.")
    init_scale: float = _field(0.1, "Standard deviation of the initial ID table.")
    router_hidden: int = _field(64, "Hidden width of a client's router.")
    history_weight: float = _field(
        0.0,
        "Weight c of an item's likeness to the client's history O in its score: f(v_i) + c <v_i, "
        "sum of v_j over j in O but i> / |O|. Above 0 there is no plan=dense.",
    )
    fedrap_apart: float = _field(
        0.01, "FedRAP: weight of pushing the personal rows away from the common ones."
    )
    fedrap_sparse: float = _field(
        0.01, "FedRAP: weight of the L1 norm of the common rows, view by view."
    )

    def __post_init__(self):
        _check_fields(self)
        names = self.views.split(",")
        if any(not name.strip() for name in names) or len(set(names)) != len(names):
            raise InputError(
                f"--views={self.views}: an empty or repeated name; give e.g. id,text,image"
            )
        _check_range(self, "width", 1)
        _check_range(self, "router_hidden", 1)
        for name in ("history_weight", "init_scale", "fedrap_apart", "fedrap_sparse"):
            _check_range(self, name, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FederationConfig:
    """Who takes part, what a client does in a round, and what the server does with it."""

    rounds: int = _field(300, "Most rounds to run.", free=True)
    cohort: int = _field(0, "Clients asked per round, drawn anew each round; 0 asks everyone.")
    sampling: str = _field(
        "fixed",
        "fixed: exactly --cohort clients, drawn without replacement; poisson: each client by "
        "itself, with probability --cohort / clients.",
        SAMPLING_NAMES,
    )
    cohort_places: int = _field(
        0,
        "sampling=poisson: the most clients of a round, a random subset of a larger sample; 0: so "
        "many that fewer than 1 of 1e12 samples are larger.",
    )
    dropout: float = _field(0.0, "Probability that an asked client does not answer.")
    local_epochs: int = _field(5, "Local epochs A of a client in a round.")
    min_local_epochs: int = _field(
        0, "Where above 0: each client affords between this and --local_epochs, drawn per round."
    )
    upload: str = _field(
        "gradient",
        "gradient: views and shared head stay at the broadcast value, their gradient is "
        "uploaded; delta: the client trains a copy and uploads the difference.",
        ("gradient", "delta"),
    )
    negatives: str = _field(
        "expected",
        "sampled: drawn anew each local epoch; expected: the exact expectation of that loss.",
        ("sampled", "expected"),
    )
    num_negatives: int = _field(4, "Negatives per positive.")
    loss: str = _field(
        "bce",
        "bce: binary cross-entropy of every row, as published; softmax: cross-entropy of each "
        "positive among the client's positives and all items that can be a negative. Both are "
        "over the same number of rows.",
        LOSS_NAMES,
    )
    client_lr: float = _field(3.0, "Client SGD step for the private head.")
    router_lr: float = _field(0.003, "Client SGD step for the router.")
    item_lr: float = _field(1.0, "Client SGD step for private item rows (PFedRec, FedRAP).")
    copy_lr: float = _field(
        1.0, "upload=delta: client SGD step for its copy of the views and of the shared head."
    )
    client_decay: float = _field(0.02, "L2 decay of the private head, per unit of client_lr.")
    server_optimizer: str = _field(
        "adam",
        "Server optimizer; none takes no step: local-only training, where each client moves "
        "its private parts alone and what is shared stays as it was drawn.",
        OPTIMIZER_NAMES,
    )
    server_lr_items: float = _field(0.05, "Server step for the ID table.")
    server_lr_fusion: float = _field(0.003, "Server step for the fusion operators.")
    server_lr_head: float = _field(0.01, "Server step for the backbone's shared head.")
    server_decay: float = _field(
        10.0, "Decoupled decay of the ID table and the operators, per unit of their step."
    )
    aggregation: str = _field(
        "float32",
        "How the server combines the uploads. float32: weighted mean; int32: weighted mean in "
        "fixed point, the same to the bit on 1, 2, 4 and 8 devices; fixed_mean: the sum over the "
        "number of expected clients; median, trimmed_mean: coordinate by coordinate; krum, "
        "multi_krum: the uploads with the nearest neighbours; geometric_median: RFA; norm_bound: "
        "the mean of uploads shortened to the median norm; bulyan: Krum, then coordinates; "
        "row_median: item by item over the clients that touched it.",
        AGGREGATION_NAMES,
    )
    byzantine_share: float = _field(
        0.1,
        "Share of the clients that may be hostile: what trimmed_mean removes at each end, and "
        "f / n of krum, multi_krum, bulyan and row_median.",
    )
    plan: str = _field(
        "auto",
        "How local epochs are executed: dense (linear algebra over the whole catalogue, linear "
        "heads only), factored (fedrap) and catalogue (any other head), on every item, with "
        "--negatives=expected and --upload=gradient; gathered (the rows a client touches), auto "
        "(by cost).",
        PLAN_NAMES,
    )
    matmul_precision: str = _field(
        "float32",
        "Operands of the dense plan's products over the catalogue: float32, tf32 (GPUs) or bf16; "
        "sums are in float32, and so is all else.",
        PRECISION_NAMES,
    )
    chunk: int = _field(0, "Clients trained at once; 0 chooses by memory.", free=True)

    def __post_init__(self):
        _check_fields(self)
        for name in ("rounds", "local_epochs", "num_negatives"):
            _check_range(self, name, 1)
        for name in (
            "cohort",
            "cohort_places",
            "min_local_epochs",
            "chunk",
            "client_decay",
            "server_decay",
        ):
            _check_range(self, name, 0)
        for name in ("client_lr", "router_lr", "item_lr", "copy_lr"):
            _check_range(self, name, 0)
        for name in ("server_lr_items", "server_lr_fusion", "server_lr_head"):
            _check_range(self, name, 0)
        if not 0 <= self.byzantine_share < 0.5:
            raise InputError(
                f"--byzantine_share={self.byzantine_share}: give a share of at least 0 and below "
                "0.5; no rule withstands a majority"
            )
        if self.aggregation == "bulyan" and self.byzantine_share >= 0.25:
            raise InputError(
                f"--byzantine_share={self.byzantine_share}: --aggregation=bulyan withstands less "
                "than a quarter of the clients; give a share below 0.25"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"--dropout={self.dropout}: give a probability in [0, 1)")
        if self.sampling == "poisson" and not self.cohort:
            raise InputError("--sampling=poisson: needs --cohort above 0, the expected clients")
        if self.cohort_places and self.sampling != "poisson":
            raise InputError(
                f"--cohort_places={self.cohort_places}: --sampling=fixed needs no more places than "
                "--cohort; give --sampling=poisson or 0"
            )
        if 0 < self.cohort_places < self.cohort:
            raise InputError(
                f"--cohort_places={self.cohort_places}: fewer than the --cohort={self.cohort} "
                "clients that a round expects; give more, or 0"
            )
        if self.min_local_epochs > self.local_epochs:
            raise InputError(
                f"--min_local_epochs={self.min_local_epochs}: more than "
                f"--local_epochs={self.local_epochs}"
            )

    @property
    def rates(self) -> Rates:
        return Rates(**{name: getattr(self, name) for name in Rates._fields})


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Where training begins."""

    start: str = _field(
        "random",
        "random: everything is drawn; spectral: the ID table and the clients' vectors in closed "
        "form, by federated subspace iteration (fcf, pfedrec and fedrap, where an item's ID row "
        "is among its views); ease: the same of a low-rank EASE over histories and features.",
        START_NAMES,
    )
    start_router: str = _field(
        "uniform",
        "uniform: routers begin with equal weights; history: with what each client's own history "
        "says of its views, in closed form or by federated exchanges where one is the ID "
        "(fusion=bilevel, views among id, table and modalities).",
        START_ROUTER_NAMES,
    )
    start_topics: int = _field(
        64, "start_router=history: hidden topics of items that stand for the ID."
    )
    start_sharpness: float = _field(
        12.0, "start_router=history: how sharply an item speaks for those alike in a modality."
    )
    start_exchanges: int = _field(
        8, "start=spectral, ease: exchanges with all clients for one table."
    )
    start_user_power: float = _field(
        0.25, "start=spectral: a history counts as its length to the power of minus this."
    )
    start_item_power: float = _field(
        0.25, "start=spectral: an item counts as its number of clients to the power of minus this."
    )
    start_ridge: float = _field(
        10.0,
        "start=ease: ridge weight, in units of the mean diagonal of the matrix that is inverted.",
    )
    start_content: float = _field(
        -1.0,
        "start=ease: weight of the features beside the histories, in units of an item's mean "
        "number of clients; -1: chosen on validation.",
    )
    start_recency: float = _field(
        -1.0,
        "start=ease: as --recency, which it takes the place of, but -1: chosen on validation.",
    )
    start_shrinkage: float = _field(
        0.3, "start=spectral: ridge weight, in units of the mean squared singular value."
    )
    start_score: float = _field(
        3.0,
        "start=spectral, ease: mean score of a client's own items at the start, without what "
        "--history_weight adds.",
    )

    def __post_init__(self):
        _check_fields(self)
        _check_range(self, "start_topics", 1)
        _check_range(self, "start_sharpness", 0, 100)
        _check_range(self, "start_exchanges", 1)
        for name in ("start_user_power", "start_item_power"):
            _check_range(self, name, 0, 1)
        _check_range(self, "start_shrinkage", 0)
        _check_range(self, "start_ridge", 0)
        for name, most in (("start_content", math.inf), ("start_recency", 2)):
            if getattr(self, name) != -1:
                _check_range(self, name, 0, most)
        if not 0 < self.start_score < math.inf:
            raise InputError(f"--start_score={self.start_score}: give a finite number above 0")


# Flags that say nothing without a statement.
_OF_STATEMENT = ("target_epsilon", "noise_cohort_size", "population")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """What protects an upload."""

    privacy: str = _field(
        "none",
        "none: no statement; central: a trusted server adds the noise once to the sum; local: each "
        "client adds it to its own upload. With a statement (epsilon, delta) of the whole run, and "
        "a ledger of what was spent.",
        PRIVACY_NAMES,
    )
    target_epsilon: float = _field(
        0.0,
        "The budget. Alone, it sets the noise for the planned --rounds; with --noise_multiplier, "
        "training stops before the budget is passed.",
    )
    target_delta: float = _field(1e-5, "The chance that epsilon does not hold; below 1 / users.")
    noise_cohort_size: int = _field(
        0,
        "privacy=central, sampling=poisson: the noise is that of a deployment with so many clients "
        "a round, and the statement is about it; 0: about this run.",
    )
    population: int = _field(
        0, "Users of the deployment that --noise_cohort_size stands for; 0: those of the data set."
    )
    clip_norm: float = _field(
        0.0, "Joint L2 bound of one client's upload in a round; 0 does not clip."
    )
    clip_quantile: float = _field(
        0.0,
        "Above 0: the bound starts at --clip_norm and follows this quantile of the uploads' norms.",
    )
    noise_multiplier: float = _field(
        0.0, "Standard deviation of the Gaussian noise, in units of the bound on an upload."
    )
    noise: str = _field(
        "client",
        "client: each client adds the noise to its upload; central: the server adds it once to the "
        "sum, divided by the number of expected clients (--aggregation=fixed_mean). --privacy "
        "decides it for itself.",
        ("client", "central"),
    )

    def __post_init__(self):
        _check_fields(self)
        _check_range(self, "clip_norm", 0)
        _check_range(self, "noise_multiplier", 0)
        _check_range(self, "target_epsilon", 0)
        for name in ("noise_cohort_size", "population"):
            _check_range(self, name, 0)
        self._check_statement()
        if not 0 <= self.clip_quantile < 1:
            raise InputError(
                f"--clip_quantile={self.clip_quantile}: give a share above 0 and below 1, or 0 for "
                "a bound that stays"
            )
        if self.clip_quantile > 0 and self.clip_norm == 0:
            raise InputError(
                f"--clip_quantile={self.clip_quantile}: needs --clip_norm above 0, the first bound"
            )
        if self.noise_multiplier > 0 and self.clip_norm == 0:
            raise InputError(
                f"--noise_multiplier={self.noise_multiplier}: needs --clip_norm above 0, "
                "for without a bound the noise protects nothing"
            )

    def _check_statement(self) -> None:
        """Refuses flags of --privacy that have no statement."""
        if self.privacy == "none":
            given = {name: getattr(self, name) for name in _OF_STATEMENT if getattr(self, name)}
            for name, value in given.items():
                raise InputError(f"--{name}={value}: needs --privacy=central or local")
            return
        if not 0 < self.target_delta < 1:
            raise InputError(f"--target_delta={self.target_delta}: give a number between 0 and 1")
        if not (self.target_epsilon or self.noise_multiplier):
            raise InputError(
                f"--privacy={self.privacy}: give --target_epsilon, which sets the noise, or "
                "--noise_multiplier"
            )
        if not self.clip_norm:
            raise InputError(
                f"--privacy={self.privacy}: needs --clip_norm above 0, the bound on one upload"
            )
        if self.privacy == "local" and self.noise == "central":
            raise InputError("--privacy=local: the clients add the noise; give --noise=client")
        if self.privacy == "local" and self.clip_quantile:
            raise InputError(
                f"--privacy=local: --clip_quantile={self.clip_quantile} is a bound that the server "
                "learns from the clients; give 0, a bound that stays"
            )
        if self.population and not self.noise_cohort_size:
            raise InputError(
                f"--population={self.population}: needs --noise_cohort_size, the clients of its "
                "rounds"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Hostile clients beside the honest ones; docs/robustness.md describes the attacks."""

    attack: str = _field(
        "none",
        "What the hostile clients do; none: there are none; honest: they do not attack.",
        ATTACK_NAMES,
    )
    hostile_share: float = _field(
        0.05, "Hostile clients, as a share of the honest ones; at least one client."
    )
    target_items: str = _field(
        "cold",
        "cold: targets are drawn from the tenth of the items with the fewest train interactions; "
        "popular: from the tenth with the most.",
        ("cold", "popular"),
    )
    num_targets: int = _field(1, "Items that the hostile clients promote.")
    attack_strength: float = _field(
        1.0,
        "Length of a forged upload, in units of what the hostile clients train themselves; the "
        "factor of sign_flip and ipm, a tenth of that of scaling, the deviations of ua_fedrec.",
    )
    attack_seed: int = _field(0, "Seed of targets, hostile histories and public interactions.")

    def __post_init__(self):
        _check_fields(self)
        _check_range(self, "num_targets", 1)
        _check_range(self, "attack_strength", 0)
        _check_range(self, "attack_seed", 0)
        if not 0 < self.hostile_share <= 1:
            raise InputError(
                f"--hostile_share={self.hostile_share}: give a share above 0 and at most 1"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """Clients as devices, and the simulated clock; docs/fleet.md describes them."""

    participation: str = _field(
        "always",
        "When clients are available. always; uniform: each with --available_share, drawn per "
        "round; diurnal: sessions by day and night as in a published trace; trace: those of "
        "--trace. All but always run a simulated clock, and so do --deadline_s and "
        "--over_selection.",
        ("always", "uniform", "diurnal", "trace"),
    )
    available_share: float = _field(0.5, "participation=uniform: the share that is available.")
    trace: str = _field(
        "", "participation=trace: a CSV file of client,start,end in seconds.", path=True
    )
    over_selection: float = _field(
        1.0,
        "Clients asked, per upload of --cohort; the round ends when --cohort of them have "
        "reported, and the others worked in vain.",
    )
    deadline_s: float = _field(
        0.0, "Simulated seconds after which a round ends; later uploads do not count. 0: never."
    )
    pause_s: float = _field(
        0.0, "Simulated seconds between a round and the next; needs a simulated clock."
    )
    speed_activity_correlation: float = _field(
        0.0, "Correlation of a device's speed and its user's activity, in [-1, 1]."
    )
    upload_format: str = _field(
        "dense",
        "How uploads are counted and timed: dense, every row; sparse, touched rows with their "
        "numbers; bitmask, touched rows and a bit for every row.",
        ("dense", "sparse", "bitmask"),
    )

    upload_rank: int = _field(
        0,
        "Above 0: clients upload each item's gradient times a basis of so many columns, drawn for "
        "the round and shared by all (CoLR); 0: the whole gradient.",
    )

    def __post_init__(self):
        _check_fields(self)
        _check_range(self, "upload_rank", 0)
        _check_range(self, "deadline_s", 0)
        _check_range(self, "pause_s", 0)
        _check_range(self, "over_selection", 1)
        _check_range(self, "speed_activity_correlation", -1, 1)
        if not 0 < self.available_share <= 1:
            raise InputError(
                f"--available_share={self.available_share}: give a share above 0 and at most 1"
            )
        if self.pause_s and not self.has_clock:
            raise InputError(
                f"--pause_s={self.pause_s:g}: without a simulated clock there is no pause; give "
                "--participation, --deadline_s or --over_selection too"
            )
        if (self.participation == "trace") != bool(self.trace):
            raise InputError(
                f"--trace={self.trace}: goes with --participation=trace, and that needs it"
            )

    @property
    def has_clock(self) -> bool:
        """Whether a simulated clock decides who takes part."""
        plain = self.participation == "always" and self.over_selection == 1
        return not plain or self.deadline_s > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a state is judged. The protocol sets mask and negative pool together."""

    protocol: str = _field(
        "strict",
        "strict: mask train and valid, negatives from the whole catalogue; "
        "paper: mask train, negatives only from items seen in train.",
        ("paper", "strict"),
    )
    ks: str = _field(
        "10,20,50", "Cut-offs K of the metrics, comma-separated; 50, the headline, is always added."
    )
    select: str = _field(
        "auto",
        "What rounds and settings are chosen by on validation: a metric at a cut-off, of the slice "
        "that the data set is judged on (warm targets where there are cold ones), or of a named "
        "one, e.g. ndcg@20, warm_hr@10, all_ndcg@50; auto: ndcg@50.",
    )
    eval_every: int = _field(5, "Rounds between two evaluations on the validation part.")
    patience: int = _field(
        10,
        "Stop after this many evaluations without a better value of --select; 0 never stops.",
        free=True,
    )
    baselines: bool = _field(True, "Also evaluate the baselines.", free=True)
    tune_baselines: bool = _field(
        True,
        "Choose the setting of each baseline among nine on validation, by --select; false: its "
        "default, for speed.",
        free=True,
    )

    def __post_init__(self):
        _check_fields(self)
        _check_range(self, "eval_every", 1)
        _check_range(self, "patience", 0)
        parse_selection(self.select)
        try:
            ks = self.cutoffs
        except ValueError:
            ks = ()
        if not ks or min(ks) < 1:
            raise InputError(f"--ks={self.ks}: give positive integers, e.g. 10,20,50")

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """Those of --ks, the headline's and that of --select, ascending."""
        asked = {int(k) for k in self.ks.split(",")}
        return tuple(sorted({*asked, HEADLINE, self.selection.cutoff}))

    @property
    def selection(self) -> Selection:
        """--select; its slice may be "auto", see `evaluation.selection.for_dataset`."""
        return parse_selection(self.select)

    @property
    def mask(self) -> str:
        """What is masked when the test part is ranked: 'train' or 'train+valid'."""
        return "train" if self.protocol == "paper" else "train+valid"

    @property
    def negative_pool(self) -> str:
        """Where negatives come from: 'seen' or 'catalogue'."""
        return "seen" if self.protocol == "paper" else "catalogue"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where results go, and what makes a run repeatable and able to go on."""

    seed: int = _field(0, "Everything random derives from (seed, round, client).")
    workdir: str = _field(
        "",
        "Folder for results; empty: runs/<dataset>-<protocol>-<backbone>-<fusion>-seed<seed>.",
        free=True,
        path=True,
    )
    overwrite: bool = _field(False, "Replace the run that --workdir holds.", free=True)
    resume: str = _field(
        "auto",
        "auto: go on with the run that --workdir holds, refuse if its flags differ; "
        "never: refuse a folder that holds a run; must: refuse one that holds none.",
        ("auto", "never", "must"),
        free=True,
    )
    checkpoint_every: int = _field(
        50,
        "Save at the first chance after each multiple of this many rounds that "
        "--checkpoint_share allows, and at the end.",
        free=True,
    )
    checkpoint_share: float = _field(
        0.03,
        "The most of a run's time that saves before the end may take, by what the last one took; "
        "they are at most 60 s further apart for it. 1: every --checkpoint_every rounds to the "
        "letter.",
        free=True,
    )
    keep_checkpoints: int = _field(2, "How many of the newest checkpoints are kept.", free=True)
    store: str = _field(
        "device",
        "Where private rows lie: device; host, in its memory, only a cohort's rows travel; disk, "
        "in sparse files.",
        ("device", "host", "disk"),
        free=True,
    )
    store_dir: str = _field(
        "",
        "Folder for the files of --store=disk; empty: the system's temporary folder.",
        free=True,
        path=True,
    )
    devices: int = _field(
        0,
        "Devices that share the clients: 1, 2, 4 or 8; 0: the most of these that there are.",
        free=True,
    )
    memory_budget_gb: float = _field(
        0.0,
        "Memory that a run may take, in 1e9 bytes; 0: nine tenths of the device's, or of what the "
        "container, the batch system or ulimit allow.",
        free=True,
    )
    keep_best: int = _field(
        1,
        "How many older checkpoints are kept as well, those of the best value of --select.",
        free=True,
    )

    def __post_init__(self):
        _check_fields(self)
        _check_range(self, "seed", 0, 2**31 - 1)
        _check_range(self, "checkpoint_every", 1)
        if not 0 < self.checkpoint_share <= 1:
            raise InputError(
                f"--checkpoint_share={self.checkpoint_share}: give a number above 0 and at most 1"
            )
        _check_range(self, "keep_checkpoints", 1)
        _check_range(self, "devices", 0)
        _check_range(self, "memory_budget_gb", 0)
        _check_range(self, "keep_best", 0)
        if self.overwrite and self.resume == "must":
            raise InputError("--overwrite: cannot go with --resume=must")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run: the groups above. Raises InputError for what cannot be combined."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    federation: FederationConfig = dataclasses.field(default_factory=FederationConfig)
    start: StartConfig = dataclasses.field(default_factory=StartConfig)
    privacy: PrivacyConfig = dataclasses.field(default_factory=PrivacyConfig)
    attack: AttackConfig = dataclasses.field(default_factory=AttackConfig)
    fleet: FleetConfig = dataclasses.field(default_factory=FleetConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    def __post_init__(self):
        self._check_hostile()
        if self.fleet.has_clock and self.federation.sampling == "poisson":
            raise InputError(
                "--sampling=poisson: a simulated clock decides who takes part; give "
                "--sampling=fixed"
            )
        privacy, rule = self.privacy, self.federation.aggregation
        if privacy.privacy != "none":
            self._check_private()
            return
        if privacy.noise_multiplier and privacy.noise == "central" and rule != "fixed_mean":
            raise InputError(
                f"--noise=central: --aggregation={rule} has no fixed bound on what one client "
                "changes; use --aggregation=fixed_mean"
            )
        if privacy.noise_multiplier and privacy.noise == "client" and rule not in _SUMS:
            raise InputError(
                f"--noise_multiplier={privacy.noise_multiplier}: the noise of the clients is drawn "
                f"as the noise of their sum, which --aggregation={rule} does not take; use one of "
                f"{', '.join(_SUMS)}"
            )

    def _check_hostile(self) -> None:
        """Refuses hostile clients that the rule cannot withstand, and what forged or compressed
        uploads do not go with."""
        rule, share = self.federation.aggregation, self.attack.hostile_share
        if self.fleet.upload_rank and rule not in _SUMS:
            raise InputError(
                f"--upload_rank={self.fleet.upload_rank}: --aggregation={rule} does not commute "
                f"with the projection; use one of {', '.join(_SUMS)}"
            )
        if self.fleet.upload_rank and self.attack.attack != "none":
            raise InputError(
                f"--upload_rank={self.fleet.upload_rank}: forged uploads are not compressed; give 0"
            )
        share /= 1 + share
        most = {"bulyan": 0.25, "norm_bound": 1.0}.get(rule, 1.0 if rule in _SUMS else 0.5)
        if self.attack.attack != "none" and share >= most:
            raise InputError(
                f"--hostile_share={self.attack.hostile_share}: {share:.0%} of all clients, and "
                f"--aggregation={rule} withstands less than {most:.0%}; give a share below "
                f"{most / (1 - most):.2g}"
            )

    def _check_private(self) -> None:
        """Refuses combinations with --privacy whose rounds have no bounded sensitivity."""
        privacy, federation = self.privacy, self.federation
        if self.attack.attack != "none":
            raise InputError(
                f"--privacy={privacy.privacy}: --attack={self.attack.attack} forges uploads after "
                "they were clipped, so that no bound holds; give one or the other"
            )
        if self.fleet.upload_rank:
            raise InputError(
                f"--privacy={privacy.privacy}: --upload_rank={self.fleet.upload_rank} has no "
                "entry in the ledger; give 0"
            )
        if self.fleet.has_clock:
            raise InputError(
                f"--privacy={privacy.privacy}: who is available on a simulated clock is no "
                "sampling that can be accounted; use --participation=always without --deadline_s "
                "and --over_selection"
            )
        if federation.aggregation != "fixed_mean":
            raise InputError(
                f"--privacy={privacy.privacy}: with --aggregation={federation.aggregation} what "
                "one client changes depends on the others; use --aggregation=fixed_mean"
            )
        if privacy.noise_cohort_size and not (
            privacy.privacy == "central" and federation.sampling == "poisson"
        ):
            raise InputError(
                f"--noise_cohort_size={privacy.noise_cohort_size}: stands for a Poisson cohort "
                "under central privacy; give --privacy=central --sampling=poisson, or 0"
            )
        if 0 < privacy.noise_cohort_size < federation.cohort:
            raise InputError(
                f"--noise_cohort_size={privacy.noise_cohort_size}: fewer than "
                f"--cohort={federation.cohort}"
            )

    @property
    def flat(self) -> dict[str, Any]:
        """{flag name: value} over all groups."""
        return {k: v for group in dataclasses.asdict(self).values() for k, v in group.items()}

    @property
    def workdir(self) -> str:
        """--workdir, or the folder named after the main choices."""
        name = (
            f"{self.data.dataset}-{self.evaluation.protocol}-{self.model.backbone}-"
            f"{self.model.fusion}-seed{self.run.seed}"
        )
        return self.run.workdir or f"runs/{name}"

    @classmethod
    def from_flat(cls, **values: Any) -> Config:
        """Builds a config out of flag names, e.g. Config.from_flat(dataset="KU", rounds=50)."""
        groups = {}
        for group in dataclasses.fields(cls):
            kind: Any = group.default_factory
            names = {field.name for field in dataclasses.fields(kind)}
            groups[group.name] = kind(**{n: values.pop(n) for n in names & values.keys()})
        if values:
            known = ", ".join(sorted(cls().flat))
            raise InputError(f"unknown option {', '.join(sorted(values))}; known are {known}")
        return cls(**groups)


FREE_FLAGS = frozenset(
    field.name
    for group in dataclasses.fields(Config)
    for field in dataclasses.fields(getattr(Config(), group.name))
    if field.metadata["free"]
)
