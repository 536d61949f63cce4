"""What each part of personalised fusion is worth, for a personal and for a shared head.

    python -m experiments.ablation --dataset=KU --protocol=paper --workdir=runs/ablation

For every one of --backbones, with all --seeds and everything else alike, by --parts:
- levels: fusion on the server and refinement on the client: both, one alone, neither. Fusion
  alone has uniform weights, refinement alone the operators as they were drawn;
- router: one mixture of the modalities that all clients share, in place of private routers;
- modalities: without the ID table, the text, the image;
- operators: one at a time (with one view, a router has nothing to choose).
Each is tested against "both" with Wilcoxon and t-tests over users, seeds averaged.

--workdir then holds ablation-BACKBONE.json, .csv, .md and .svg, and a run directory a run;
nothing that is finished is trained again. On two cores it takes about five minutes a backbone
on KU and half an hour on ML.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from experiments.comparison import compare, write_comparison, write_text
from experiments.launch import config_from_flags, launch
from experiments.members import Choice, Member, define_member_flags, parse_seeds, train_waiting
from experiments.runs import load, required_workdir
from fedvlr_jax.config import BACKBONE_NAMES, Config, check_choice
from fedvlr_jax.errors import InputError
from fedvlr_jax.fusion.operators import OPERATORS
from fedvlr_jax.report import locked
from fedvlr_jax.report.plots import interval_bars

FLAGS = flags.FLAGS

BOTH: Choice = (("fusion", "bilevel"),)
PARTS = ("levels", "router", "modalities", "operators")


def variants(base: Config, modalities: tuple[str, ...]) -> dict[str, dict[str, Choice]]:
    """{part: {what it is: the flags that make it of `base`}}; all are compared with `BOTH`.

    Raises:
      InputError: the data set has no modality to fuse.
    """
    if not modalities:
        raise InputError(f"--dataset={base.data.dataset}: has no item features to ablate")
    views = ("id", *modalities)
    without = lambda name: ",".join(view for view in views if view != name)
    return {
        "levels": {
            # Uniform weights: the server's operators learn, the clients do not choose.
            "server fusion alone": (*BOTH, ("router_lr", 0.0)),
            # The operators stay as they were drawn: only the clients' weights learn.
            "client refinement alone": (*BOTH, ("server_lr_fusion", 0.0)),
            "neither": (("fusion", "none"),),
        },
        "router": {"one router for all": (*BOTH, ("views", "mixture"))},
        "modalities": {f"without {name}": (*BOTH, ("views", without(name))) for name in views},
        "operators": {f"only {name}": (*BOTH, ("views", name)) for name in OPERATORS},
    }


def make_member(base: Config, backbone: str, name: str, choice: Choice, seed: int) -> Member:
    folder = Path(base.workdir) / backbone / name.replace(" ", "-")
    values = {**dict(choice), "backbone": backbone, "seed": seed}
    workdir = str(folder / f"seed{seed}")
    return Member(choice, Config.from_flat(**{**base.flat, **values, "workdir": workdir}))


def main() -> None:
    backbones = [name.strip() for name in FLAGS.backbones.split(",")]
    for name in backbones:
        check_choice("backbones", name, BACKBONE_NAMES)
    parts = [name.strip() for name in FLAGS.parts.split(",")]
    for name in parts:
        check_choice("parts", name, PARTS)
    seeds = parse_seeds(FLAGS.seeds)
    base = config_from_flags(baselines=False)
    folder = required_workdir(base, "runs/ablation")
    dataset = load(base)
    of_part = variants(base, tuple(sorted(dataset.features)))
    chosen = {"both": BOTH}
    for part in parts:
        chosen |= of_part[part]
    with locked(base.workdir):
        for backbone in backbones:
            groups = {
                name: [make_member(base, backbone, name, choice, seed) for seed in seeds]
                for name, choice in chosen.items()
            }
            train_waiting([member for group in groups.values() for member in group])
            folders = {name: [m.directory for m in group] for name, group in groups.items()}
            lines = compare(folders, dataset)
            if not lines:
                raise InputError("no run finished; lower the step sizes")
            title = f"{backbone} on {dataset.name}, protocol {base.evaluation.protocol}"
            stem = folder / f"ablation-{backbone}"
            write_comparison(lines, stem, f"{title}, seeds {FLAGS.seeds}", folders)
            judged = lines[0]["slice"]
            bars = [(line["choice"], line[f"{judged}_ndcg@50"], line["ci95"]) for line in lines]
            write_text(stem.with_suffix(".svg"), interval_bars(f"{title}: {judged} NDCG@50", bars))


if __name__ == "__main__":
    define_member_flags(overruled=("backbone", "fusion", "baselines"))
    flags.DEFINE_string(
        "backbones", "fcf,fedavg", "Comma-separated; fcf has a personal head, fedavg a shared one."
    )
    flags.DEFINE_string("parts", ",".join(PARTS), "What is ablated, comma-separated.")
    launch(main, __doc__)
