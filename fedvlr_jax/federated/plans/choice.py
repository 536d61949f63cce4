"""The plan of a run: that of --plan, or the one with the lowest cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedvlr_jax import registry
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.local import Task
from fedvlr_jax.federated.plans.plan import Plan
from fedvlr_jax.federated.plans.slots import num_slots
from fedvlr_jax.uplink import Needs

# Cost of a gathered row (gather, batched small products, scatter) relative to a row of the dense
# plan's matrix products, as measured by benchmarks/rounds.
GATHERED_ROW_COST = 8.0

PLANS: Mapping[str, Plan] = registry.Objects(registry.PLANS)

NEEDED = {
    Needs.NORMS: "each single upload (--clip_norm, --aggregation=secure)",
    Needs.WHOLE: "whole uploads (--aggregation, --upload_bits, --upload_rows, --groups)",
}


def choose_plan(task: Task, history_lengths: Sequence[int], clients: Sequence[int]) -> str:
    """A name of PLANS: that of --plan, or the plan of the lowest cost.

    In an epoch the dense plan works on clients * I rows and the gathered plan on clients * M, each
    at GATHERED_ROW_COST. Where dense does not fit, the first plan that fits is taken.

    Args:
      history_lengths: the padded history lengths of the buckets. clients: their sizes.

    Raises:
      InputError: the plan of --plan cannot train these clients.
    """
    given, needs = task.config.federation.plan, task.aggregator.needs
    fitting = [name for name, plan in PLANS.items() if plan.fits(task)]
    able = [name for name in fitting if PLANS[name].gives >= needs]
    if given in fitting and given not in able:
        raise InputError(
            f"--plan={given}: gives sums of uploads alone, but these flags need "
            f"{NEEDED[needs]}; plans that give it are {', '.join(able)}, and auto chooses"
        )
    if given not in ("auto", *able):
        raise InputError(
            f"--plan={given}: cannot train --backbone={task.config.model.backbone} with these "
            f"flags; those that can are {', '.join(able)}, and auto chooses"
        )
    if given != "auto":
        return given
    if able[0] != "dense":
        return able[0]
    dense = sum(clients) * task.model.num_items
    gathered = sum(n * num_slots(task, p) for n, p in zip(clients, history_lengths, strict=True))
    return "dense" if dense <= GATHERED_ROW_COST * gathered else "gathered"
