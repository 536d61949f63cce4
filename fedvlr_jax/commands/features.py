r"""Encodes the titles or the pictures of items into features that `train` reads.

    fedvlr features --dataset=ml1m --data_root=data
    fedvlr features --dataset=ml1m --data_root=data --images=posters \
        --encoder=open_clip --weights=local-dir:ViT-B-32

By default the command encodes the titles of items.csv by hashed word n-grams and an SVD, which
needs no model. --encoder uses a model from the folder --weights; the command downloads nothing.
Items without a title or a picture get the mean row, and the command prints their number. The same
command resumes an interrupted run. --batch_size does not change the rows, not even in the last bit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from absl import flags
from rich.progress import Progress

from fedvlr_jax.commands.launching.messages import command
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.data.faults import shown
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.data.titles import read_titles
from fedvlr_jax.encoding import Features, Settings, encode_pictures, encode_titles
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.items import read_items

FLAGS = flags.FLAGS


def titles_of(dataset: Dataset, folder: Path, notes: list[str]) -> np.ndarray:
    """The title of every item, from --titles or from the data set's items.csv."""
    if not FLAGS.titles:
        for name in ("item_id", "title"):
            if FLAGS[name].value:
                raise InputError(f"--{name}: names a column of --titles; give --titles=FILE too")
        titles = read_titles(folder, dataset.item_ids.tolist())
        if titles is None:
            raise InputError(
                f"{folder}: has no items.csv with titles; give --titles=FILE, or --images=FOLDER"
            )
        return titles
    path = Path(FLAGS.titles)
    if not path.is_file():
        raise InputError(f"--titles={path}: no such file")
    known = read_items(path, id_column=FLAGS.item_id, title_column=FLAGS.title, notes=notes)
    ids = dataset.item_ids.tolist()
    of_dataset = set(ids)
    others = [key for key in known if key not in of_dataset]
    if len(others) == len(known):
        raise InputError(
            f"{path}: none of its {len(known)} items is in the data set; it has {others[0]!r}, the "
            f"data set has {ids[0]!r}; give --item_id=COLUMN"
        )
    if others:
        notes.append(f"{path.name}: {len(others)} items are not in the data set")
    return np.array([known[key].title if key in known else "" for key in ids])


def check_row_numbers(dataset: Dataset, folder: Path) -> None:
    """Refuses a data set whose item ids are names: beside features, they must be row numbers."""
    row_numbers = [str(place) for place in range(dataset.num_items)]
    mapped = (folder / "i_id_mapping.csv").exists()
    if not mapped and dataset.item_ids.tolist() != row_numbers:
        raise InputError(
            f"{folder}: has no i_id_mapping.csv, so its item ids are names such as "
            f"{shown(dataset.item_ids[0])}, but features need row numbers; "
            f"fedvlr prepare --input={folder} --output=FOLDER writes both"
        )


def check_used() -> None:
    """Refuses flags that have no effect with the other flags."""
    of_titles = ("titles", "item_id", "title", "prompt", "missing_title")
    of_models = ("weights", "batch_size", "device")
    beside_images: tuple[str, tuple[str, ...]] = ("without --images", ("bad_images",))
    if FLAGS.images:
        beside_images = ("with --images", of_titles)
    unused = ("width",) if FLAGS.encoder != "hashing" else of_models
    for why, names in (beside_images, (f"with --encoder={FLAGS.encoder}", unused)):
        given = [name for name in names if FLAGS[name].present]
        if given:
            raise InputError(f"--{given[0]}: does nothing {why}; leave it out")


def main() -> None:
    if not FLAGS.dataset:
        raise InputError("--dataset: empty; give the name of a folder in --data_root")
    check_used()
    folder = Path(FLAGS.data_root) / FLAGS.dataset
    dataset = load_dataset(FLAGS.dataset, data_root=FLAGS.data_root)
    check_row_numbers(dataset, folder)
    kind = "image" if FLAGS.images else "text"
    settings = Settings(
        encoder=FLAGS.encoder,
        weights=FLAGS.weights,
        modality=FLAGS.modality or kind,
        width=FLAGS.width,
        batch_size=FLAGS.batch_size,
        device=FLAGS.device,
        overwrite=FLAGS.overwrite,
    )
    notes: list[str] = []
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(kind, total=None)
        show = lambda done, total: bar.update(task, completed=done, total=total)
        if FLAGS.images:
            features = encode_pictures(
                folder,
                dataset.item_ids.tolist(),
                Path(FLAGS.images),
                settings,
                skip_bad=FLAGS.bad_images == "missing",
                progress=show,
            )
        else:
            features = encode_titles(
                folder,
                titles_of(dataset, folder, notes).tolist(),
                settings,
                prompt=FLAGS.prompt,
                missing_title=FLAGS.missing_title,
                progress=show,
            )
    report(features, notes)


def report(features: Features, notes: list[str]) -> None:
    """Prints the notes, the written file and the next command."""
    for note in (*notes, *features.notes):
        print(note)
    items, width = features.rows.shape
    missing = features.manifest["missing"]
    print(f"wrote {features.path}: {items:,} items, width {width}, {missing:,} missing (the mean)")
    where = {"dataset": FLAGS.dataset, "data_root": FLAGS.data_root}
    print(f"next: {command('train', **where, workdir=f'runs/{FLAGS.dataset}')}")
