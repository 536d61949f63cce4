"""Writes the features file of a data set from titles or pictures, and its manifest."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax import __version__
from fedvlr_jax.encoding.encoder import check_encoder, weights_folder
from fedvlr_jax.encoding.hashing import BUCKETS, hashed_rows
from fedvlr_jax.encoding.models import load_encoder
from fedvlr_jax.encoding.pictures import decode, find_pictures
from fedvlr_jax.encoding.rows import batch_size_by_memory, encode_rows, key_of, writing
from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.sealing import file_sha256, sync

Progress = Callable[[int, int], None]


class Features(NamedTuple):
    """Features that were written.

    Attributes:
      rows: float32 [num_items, width].
      path: the .npy file.
      manifest: the content of the .json file beside it.
      notes: one line for each kind of input that was left out.
    """

    rows: np.ndarray
    path: Path
    manifest: dict[str, Any]
    notes: tuple[str, ...]


class Settings(NamedTuple):
    """Options of an encoding.

    Attributes:
      encoder: one of `ENCODERS`.
      weights: the folder of the model, with or without "local-dir:"; "" for "hashing".
      modality: the file of features is MODALITY_features.npy.
      width: the width for "hashing"; other encoders have a fixed width.
      batch_size: the number of items read at once; 0: as many as the free memory allows. The
        features do not depend on it.
      device: the device of torch.
      overwrite: replace existing features.
    """

    encoder: str
    weights: str = ""
    modality: str = "text"
    width: int = 128
    batch_size: int = 0
    device: str = "cpu"
    overwrite: bool = False


class _Inputs(NamedTuple):
    """The titles or pictures of a data set.

    Attributes:
      items: the text or picture of every item, decoded when it is read.
      present: the numbers of the items that have one; the others get the mean row.
      source: SHA-256 (hex) of all of them.
      described: their entries of the manifest.
      notes: one line for each kind of input that was left out.
    """

    items: Any
    present: list[int]
    source: str
    described: dict[str, Any]
    notes: tuple[str, ...] = ()


def encode_titles(
    folder: Path,
    titles: Sequence[str],
    settings: Settings,
    *,
    prompt: str = "{title}",
    missing_title: str = "",
    progress: Progress = lambda done, total: None,
) -> Features:
    """Writes the features of the items' titles into `folder`.

    Args:
      titles: the title of every item, in the order of the rows; "" for a missing title.
      prompt: the text to encode; the title replaces {title}.
      missing_title: the text to encode for an item without a title; "": the item gets the mean row.

    Raises:
      InputError: no item has a title, the encoder cannot be used, or the folder cannot be written.
    """
    check_encoder(settings.encoder, "text")
    if "{title}" not in prompt:
        raise InputError(
            f"--prompt={prompt}: has no {{title}}; e.g. --prompt='A photo of {{title}}'"
        )
    texts = [prompt.replace("{title}", title) if title else missing_title for title in titles]
    present = [place for place, text in enumerate(texts) if text]
    if not any(titles):
        raise InputError(f"{folder / 'items.csv'}: no item has a title; give --titles=FILE")
    described = {"prompt": prompt, "missing_title": missing_title}
    source = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    inputs = _Inputs(texts, present, source, described)
    if settings.encoder == "hashing":
        target = _target(folder, settings)
        rows = hashed_rows([texts[place] for place in present], settings.width)
        empty = np.logical_not(rows.any(axis=1))
        present = np.array(present)[~empty].tolist()
        if not present:
            raise InputError(f"{folder / 'items.csv'}: no title has a word; give --titles=FILE")
        inputs = inputs._replace(present=present)
        found = rows.shape[1]
        if found < settings.width:
            why = f"{found} columns instead of --width={settings.width}: the rank of the titles"
            inputs = inputs._replace(notes=(*inputs.notes, why))
        return _write(target, rows[~empty], inputs, _hashing_described(found))
    return _encode(folder, settings, "text", inputs, progress)


def encode_pictures(
    folder: Path,
    item_ids: Sequence[str],
    images: Path,
    settings: Settings,
    *,
    skip_bad: bool = False,
    progress: Progress = lambda done, total: None,
) -> Features:
    """Writes the features of the items' pictures into `folder`.

    Args:
      item_ids: the original ids, in the order of the rows.
      images: the folder of pictures; their names are ids.
      skip_bad: treat a picture that cannot be decoded as missing.

    Raises:
      InputError: a picture cannot be decoded, no name is an id, the encoder cannot be used, or the
        folder cannot be written.
    """
    check_encoder(settings.encoder, "image")
    notes: list[str] = []
    files = find_pictures(images, item_ids, notes)
    present = sorted(files)
    if skip_bad:
        present = [place for place in present if _can_be_decoded(files, place)]
        if len(present) < len(files):
            notes.append(f"{images.name}: {len(files) - len(present)} pictures cannot be decoded")
        if not present:
            raise InputError(f"--images={images}: none of the {len(files)} pictures can be decoded")
    try:
        contents = [(files[place].name, file_sha256(files[place])) for place in present]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({reason(error)})") from error
    source = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    pictures = _Pictures(files, len(item_ids))
    inputs = _Inputs(pictures, present, source, {}, tuple(notes))
    return _encode(folder, settings, "image", inputs, progress)


class _Pictures:
    """A sequence of pictures; `__getitem__` decodes the picture."""

    def __init__(self, files: dict[int, Path], count: int) -> None:
        self._files, self._count = files, count

    def __getitem__(self, place: int) -> Any:
        return decode(self._files, place)

    def __len__(self) -> int:
        return self._count


def _can_be_decoded(files: dict[int, Path], place: int) -> bool:
    try:
        decode(files, place)
    except InputError:
        return False
    return True


def _hashing_described(width: int) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "scipy")}
    return {"encoder": "hashing", "model": f"{BUCKETS} buckets, {width} singular vectors"} | {
        "versions": versions
    }


def _encode(
    folder: Path, settings: Settings, kind: str, inputs: _Inputs, progress: Progress
) -> Features:
    """Encodes with a model from a folder of weights, and writes the features."""
    target = _target(folder, settings)
    weights = weights_folder(settings.weights, settings.encoder)
    encoder = load_encoder(settings.encoder, kind, weights, settings.device)
    files = {
        str(path.relative_to(weights)): file_sha256(path)
        for path in sorted(weights.rglob("*"))
        if path.is_file()
    }
    model = {**encoder.description, "weights": files, "device": settings.device}
    partial = folder / f".{settings.modality}_features.partial"
    rows = encode_rows(
        encoder,
        inputs.present,
        inputs.items.__getitem__,
        batch_size=settings.batch_size or batch_size_by_memory(),
        partial=partial,
        key=key_of([{**inputs.described, **model}, inputs.source, inputs.present]),
        progress=progress,
    )
    features = _write(target, rows, inputs, model)
    for path in partial.iterdir():
        path.unlink()
    partial.rmdir()
    return features


def _target(folder: Path, settings: Settings) -> Path:
    """The file to write.

    Raises:
      InputError: the name of the modality is invalid, or the file exists.
    """
    if settings.modality == "id" or not settings.modality.isidentifier():
        raise InputError(
            f"--modality={settings.modality}: give a name of letters and digits, other than 'id'"
        )
    target = folder / f"{settings.modality}_features.npy"
    if target.exists() and not settings.overwrite:
        raise InputError(f"{target}: exists; give another --modality or --overwrite")
    other = target.with_name(f"{settings.modality}_feat.npy")
    if other.exists():
        raise InputError(
            f"{other}: holds features of the modality {settings.modality}, and a data set reads "
            "one file of each; give another --modality or remove the file"
        )
    return target


def _write(target: Path, rows: np.ndarray, inputs: _Inputs, model: dict[str, Any]) -> Features:
    """Writes the array and its manifest; missing items get the mean row.

    An earlier manifest is deleted before the array gets its name, and the new one is written after
    it. So whatever stops the process, a manifest is beside the array that it describes.

    Args:
      rows: float32 [len(present), width]. model: the encoder's entries of the manifest.
    """
    present, count = inputs.present, len(inputs.items)
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(wrong):
        raise InputError(
            f"{target}: the encoder returned a value that is not finite for item "
            f"{present[wrong[0]]}"
        )
    whole = np.tile(rows.mean(axis=0, dtype=np.float64).astype(np.float32), (count, 1))
    whole[present] = rows
    manifest = {
        **inputs.described,
        **model,
        "items": count,
        "width": whole.shape[1],
        "missing": count - len(present),
        "source": inputs.source,
        "fedvlr_jax": __version__,
        "notes": list(inputs.notes),
    }
    # A name that the loader does not take for features.
    unfinished = target.with_name(f".{target.name}.tmp")
    beside = target.with_suffix(".json")
    with writing(unfinished):
        with unfinished.open("wb") as file:
            np.save(file, whole)
        sync(unfinished)
        manifest["sha256"] = file_sha256(unfinished)
        beside.unlink(missing_ok=True)
        unfinished.replace(target)
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        unfinished.write_text(text + "\n", encoding="utf-8")
        sync(unfinished)
        unfinished.replace(beside)
    return Features(whole, target, manifest, inputs.notes)
