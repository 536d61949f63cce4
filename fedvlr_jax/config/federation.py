"""Sampling of clients, local training and aggregation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError
from fedvlr_jax.registry import LOSSES, OPTIMIZERS, PLANS, RULES, described

if TYPE_CHECKING:
    from fedvlr_jax.types import Rates

PRECISION_NAMES = ("float32", "tf32", "bf16")
SAMPLING_NAMES = ("fixed", "poisson")
# Rules that sum the uploads with weights that are known before training.
SUMS = tuple(name for name, rule in RULES.items() if rule.sums)
AGGREGATION_NAMES = tuple(RULES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FederationConfig:
    """Sampling of clients, local training and aggregation."""

    rounds: int = choice(300, "Maximum number of rounds.", resumable=True)
    cohort: int = choice(
        0, "Number of clients that the server samples in each round. 0: all clients."
    )
    sampling: str = choice(
        "fixed",
        "Sampling of a cohort. fixed: exactly --cohort clients, without replacement; poisson: "
        "each client independently, with probability --cohort / clients.",
        SAMPLING_NAMES,
    )
    cohort_places: int = choice(
        0,
        "sampling=poisson: maximum number of clients in a round. A larger sample is cut to a "
        "random subset. 0: a number that fewer than 1 in 1e12 samples exceed.",
    )
    client_dropout: float = choice(0.0, "Probability that a sampled client does not respond.")
    local_epochs: int = choice(5, "Number of local epochs A of a client in a round.")
    min_local_epochs: int = choice(
        0,
        "0: every client trains --local_epochs. Above 0: each client trains a random number of "
        "epochs from this to --local_epochs, drawn in each round.",
    )
    upload: str = choice(
        "gradient",
        "Content of an upload. gradient: the client keeps the views and the shared head fixed "
        "and uploads their gradient; delta: the client trains a copy of them and uploads the "
        "difference.",
        ("gradient", "delta"),
    )
    negatives: str = choice(
        "expected",
        "Negatives of the loss. expected: the exact expectation of the loss over all draws of "
        "negatives; sampled: the client draws negatives in each local epoch.",
        ("sampled", "expected"),
    )
    num_negatives: int = choice(4, "Number of negatives per positive.")
    loss: str = choice(
        "auto",
        "Local loss. auto: softmax with a closed-form --init, else bce. "
        f"{described(LOSSES)}. Both divide by the same number of rows.",
        ("auto", *LOSSES),
    )
    client_lr: float = choice(
        -1.0,
        "Learning rate of the clients' SGD for the private head. -1: 1 with a closed-form --init, "
        "else 3.",
    )
    router_lr: float = choice(0.003, "Learning rate of the clients' SGD for the router.")
    item_lr: float = choice(
        1.0, "Learning rate of the clients' SGD for private item rows (PFedRec, FedRAP)."
    )
    delta_lr: float = choice(
        1.0,
        "upload=delta: learning rate of the clients' SGD for their copies of the views and of "
        "the shared head.",
    )
    client_decay: float = choice(
        0.02, "L2 decay of the private head. The step shrinks it by client_lr times this."
    )
    server_optimizer: str = choice(
        "adam",
        f"Optimizer of the server. {described(OPTIMIZERS)}.",
        tuple(OPTIMIZERS),
    )
    server_lr_items: float = choice(
        -1.0,
        "Server learning rate of the ID table. -1: 0.002 with a closed-form --init, else 0.05.",
    )
    server_lr_fusion: float = choice(0.003, "Server learning rate of the fusion operators.")
    server_lr_head: float = choice(0.01, "Server learning rate of the backbone's shared head.")
    server_decay: float = choice(
        10.0,
        "Decoupled weight decay of the ID table and the operators, as a multiple of their "
        "learning rate. A round shrinks the table by the share server_lr_items times this: with "
        "the defaults by 50 % after --init=random, by 2 % after a closed form. It shrinks the "
        "operators by server_lr_fusion times this, by default 3 %.",
    )
    aggregation: str = choice(
        "auto",
        "Rule by which the server combines the uploads. auto: float32; but fixed_mean with "
        "--privacy=central, --privacy=local or --noise=central, and secure with "
        f"--privacy=distributed. {described(RULES)}.",
        ("auto", *AGGREGATION_NAMES),
    )
    secure_bound: float = choice(
        0.0,
        "aggregation=secure: bound on the absolute value of each number of an upload. Clients "
        "clamp larger ones. 0: --clip_norm, or 8 without it.",
    )
    secure_levels: int = choice(
        0,
        "aggregation=secure: number of integer levels from minus the bound to the bound, at most "
        "2^24. 0: as many as the 32-bit sum of all clients of a round can hold.",
    )
    secure_threshold: float = choice(
        0.67,
        "aggregation=secure: share of a round's clients that must respond. With fewer the round "
        "aborts and changes nothing.",
    )
    byzantine_share: float = choice(
        0.1,
        "Share of the clients that a robust rule assumes hostile. trimmed_mean removes this share "
        "at each end; krum, multi_krum, bulyan and row_median use it as f / n.",
    )
    plan: str = choice(
        "auto",
        "Execution of the local epochs. auto: the cheapest plan that fits; "
        f"{described(PLANS)}. factored and catalogue need --negatives=expected and "
        "--upload=gradient. dense and factored do not support --history_weight and --defense_*, "
        "and factored does not support weights by --recency.",
        ("auto", *PLANS),
    )
    matmul_precision: str = choice(
        "float32",
        "Precision of the operands in the dense plan's matrix products over the catalogue: "
        "float32, tf32 (GPUs) or bf16. Sums and all other arithmetic use float32.",
        PRECISION_NAMES,
    )
    chunk: int = choice(
        0, "Number of clients trained at once. 0: chosen by the memory budget.", resumable=True
    )

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("rounds", "local_epochs", "num_negatives"):
            check_range(self, name, 1)
        for name in (
            *("cohort", "cohort_places", "min_local_epochs", "chunk"),
            *("router_lr", "item_lr", "delta_lr", "client_decay"),
            *("server_lr_fusion", "server_lr_head", "server_decay"),
        ):
            check_range(self, name, 0)
        for name in ("client_lr", "server_lr_items"):
            if getattr(self, name) != -1:
                check_range(self, name, 0)
        if not 0 <= self.byzantine_share < 0.5:
            raise InputError(
                f"--byzantine_share={self.byzantine_share}: give a share of at least 0 and below "
                "0.5; no rule withstands a majority"
            )
        rule = RULES.get(self.aggregation)
        if rule is not None and self.byzantine_share >= rule.withstands:
            raise InputError(
                f"--byzantine_share={self.byzantine_share}: --aggregation={self.aggregation} "
                f"withstands less than {rule.withstands:.0%} of the clients; give a share below "
                f"{rule.withstands:g}"
            )
        self._check_secure()
        if not 0 <= self.client_dropout < 1:
            raise InputError(
                f"--client_dropout={self.client_dropout}: give a probability in [0, 1)"
            )
        if self.sampling == "poisson" and not self.cohort:
            raise InputError("--sampling=poisson: needs --cohort above 0, the expected clients")
        if self.cohort_places and self.sampling != "poisson":
            raise InputError(
                f"--cohort_places={self.cohort_places}: --sampling=fixed always has --cohort "
                "clients; give --sampling=poisson, or 0"
            )
        if 0 < self.cohort_places < self.cohort:
            raise InputError(
                f"--cohort_places={self.cohort_places}: less than the expected number of clients, "
                f"--cohort={self.cohort}; give more, or 0"
            )
        if self.min_local_epochs > self.local_epochs:
            raise InputError(
                f"--min_local_epochs={self.min_local_epochs}: more than "
                f"--local_epochs={self.local_epochs}"
            )

    def _check_secure(self) -> None:
        """Refuses values that a secure sum does not support, and its flags without it."""
        check_range(self, "secure_bound", 0)
        check_range(self, "secure_levels", 0)
        if self.aggregation not in ("auto", "secure"):
            for field in dataclasses.fields(self):
                value = getattr(self, field.name)
                if field.name.startswith("secure_") and value != field.default:
                    raise InputError(f"--{field.name}={value}: needs --aggregation=secure")
        if self.secure_levels and not 2 <= self.secure_levels <= 2**24:
            raise InputError(
                f"--secure_levels={self.secure_levels}: give 2 to {2**24}, which float32 tells "
                "apart, or 0 for as many as fit"
            )
        if not 0.5 < self.secure_threshold <= 1:
            raise InputError(
                f"--secure_threshold={self.secure_threshold}: give a share above 0.5, so that the "
                "server cannot unmask two sums of one round, and at most 1"
            )

    @property
    def rates(self) -> Rates:
        """The step sizes and decays.

        Raises:
          InputError: one of them depends on --init and is not resolved.
        """
        from fedvlr_jax.types import Rates  # It needs JAX, and a config does not.

        if -1 in (self.client_lr, self.server_lr_items):
            raise InputError("a learning rate of -1 depends on --init; take those of `resolved`")
        return Rates(**{name: getattr(self, name) for name in Rates._fields})
