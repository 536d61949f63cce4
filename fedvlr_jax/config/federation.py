"""Who takes part, what a client does in a round, and what the server does with it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError

if TYPE_CHECKING:
    from fedvlr_jax.types import Rates

PLAN_NAMES = ("auto", "dense", "factored", "catalogue", "gathered")
PRECISION_NAMES = ("float32", "tf32", "bf16")
OPTIMIZER_NAMES = ("none", "sgd", "momentum", "adam", "yogi")
LOSS_NAMES = ("bce", "softmax")
SAMPLING_NAMES = ("fixed", "poisson")
# The rules that are sums of the uploads, by weights known before training.
SUMS = ("float32", "int32", "fixed_mean")
AGGREGATION_NAMES = (
    *SUMS,
    *("median", "trimmed_mean", "krum", "multi_krum", "geometric_median"),
    *("norm_bound", "bulyan", "row_median"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FederationConfig:
    """Who takes part, what a client does in a round, and what the server does with it."""

    rounds: int = choice(300, "Most rounds to run.", resumable=True)
    cohort: int = choice(0, "Clients asked per round, drawn anew each round; 0 asks everyone.")
    sampling: str = choice(
        "fixed",
        "fixed: exactly --cohort clients, drawn without replacement; poisson: each client by "
        "itself, with probability --cohort / clients.",
        SAMPLING_NAMES,
    )
    cohort_places: int = choice(
        0,
        "sampling=poisson: the most clients of a round, a random subset of a larger sample; 0: so "
        "many that fewer than 1 of 1e12 samples are larger.",
    )
    client_dropout: float = choice(0.0, "Probability that an asked client does not answer.")
    local_epochs: int = choice(5, "Local epochs A of a client in a round.")
    min_local_epochs: int = choice(
        0, "Where above 0: each client affords between this and --local_epochs, drawn per round."
    )
    upload: str = choice(
        "gradient",
        "gradient: views and shared head stay at the broadcast value, their gradient is "
        "uploaded; delta: the client trains a copy and uploads the difference.",
        ("gradient", "delta"),
    )
    negatives: str = choice(
        "expected",
        "sampled: drawn anew each local epoch; expected: the exact expectation of that loss.",
        ("sampled", "expected"),
    )
    num_negatives: int = choice(4, "Negatives per positive.")
    loss: str = choice(
        "bce",
        "bce: binary cross-entropy of every row, as published; softmax: cross-entropy of each "
        "positive among the client's positives and all items that can be a negative. Both are "
        "over the same number of rows.",
        LOSS_NAMES,
    )
    client_lr: float = choice(3.0, "Client SGD step for the private head.")
    router_lr: float = choice(0.003, "Client SGD step for the router.")
    item_lr: float = choice(1.0, "Client SGD step for private item rows (PFedRec, FedRAP).")
    delta_lr: float = choice(
        1.0, "upload=delta: client SGD step for its copy of the views and of the shared head."
    )
    client_decay: float = choice(0.02, "L2 decay of the private head, per unit of client_lr.")
    server_optimizer: str = choice(
        "adam",
        "Server optimizer; none takes no step: local-only training, where each client moves "
        "its private parts alone and what is shared stays as it was drawn.",
        OPTIMIZER_NAMES,
    )
    server_lr_items: float = choice(0.05, "Server step for the ID table.")
    server_lr_fusion: float = choice(0.003, "Server step for the fusion operators.")
    server_lr_head: float = choice(0.01, "Server step for the backbone's shared head.")
    server_decay: float = choice(
        10.0, "Decoupled decay of the ID table and the operators, per unit of their step."
    )
    aggregation: str = choice(
        "float32",
        "How the server combines the uploads. float32: weighted mean; int32: weighted mean in "
        "fixed point, the same to the bit on 1, 2, 4 and 8 devices; fixed_mean: the sum over the "
        "number of expected clients; median, trimmed_mean: coordinate by coordinate; krum, "
        "multi_krum: the uploads with the nearest neighbours; geometric_median: RFA; norm_bound: "
        "the mean of uploads shortened to the median norm; bulyan: Krum, then coordinates; "
        "row_median: item by item over the clients that touched it.",
        AGGREGATION_NAMES,
    )
    byzantine_share: float = choice(
        0.1,
        "Share of the clients that may be hostile: what trimmed_mean removes at each end, and "
        "f / n of krum, multi_krum, bulyan and row_median.",
    )
    plan: str = choice(
        "auto",
        "How local epochs are executed: dense (linear algebra over the whole catalogue, linear "
        "heads only), factored (fedrap) and catalogue (any other head), on every item, with "
        "--negatives=expected and --upload=gradient; gathered (the rows a client touches), auto "
        "(by cost).",
        PLAN_NAMES,
    )
    matmul_precision: str = choice(
        "float32",
        "Operands of the dense plan's products over the catalogue: float32, tf32 (GPUs) or bf16; "
        "sums are in float32, and so is all else.",
        PRECISION_NAMES,
    )
    chunk: int = choice(0, "Clients trained at once; 0 chooses by memory.", resumable=True)

    def __post_init__(self):
        check_fields(self)
        for name in ("rounds", "local_epochs", "num_negatives"):
            check_range(self, name, 1)
        for name in (
            "cohort",
            "cohort_places",
            "min_local_epochs",
            "chunk",
            "client_decay",
            "server_decay",
        ):
            check_range(self, name, 0)
        for name in ("client_lr", "router_lr", "item_lr", "delta_lr"):
            check_range(self, name, 0)
        for name in ("server_lr_items", "server_lr_fusion", "server_lr_head"):
            check_range(self, name, 0)
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
        if not 0 <= self.client_dropout < 1:
            raise InputError(
                f"--client_dropout={self.client_dropout}: give a probability in [0, 1)"
            )
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
        from fedvlr_jax.types import Rates  # It needs JAX, and a config does not.

        return Rates(**{name: getattr(self, name) for name in Rates._fields})
