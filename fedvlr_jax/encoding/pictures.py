"""Finds the pictures of items by their file names, and decodes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedvlr_jax.errors import InputError

_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".avif"),
)


def find_pictures(folder: Path, item_ids: Sequence[str], notes: list[str]) -> dict[int, Path]:
    """Row of an item -> its picture, a file ID.jpg or similar in `folder` or its subfolders.

    Args:
      item_ids: the original ids, in the order of the rows.
      notes: the function appends a line about pictures whose name is not an id, and a line about
        files that are named after an item but have another suffix.

    Raises:
      InputError: the folder does not exist, no name is an id, or an item has two pictures.
    """
    if not folder.is_dir():
        raise InputError(f"--images={folder}: no such folder")
    place = {str(item): i for i, item in enumerate(item_ids)}
    everything = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in everything if path.suffix.lower() in _SUFFIXES]
    found: dict[int, Path] = {}
    others = 0
    for path in files:
        item = place.get(path.stem)
        if item is None:
            others += 1
        elif item in found:
            raise InputError(
                f"{path}: a second picture of item {path.stem} beside {found[item].name}; keep one"
            )
        else:
            found[item] = path
    if not found:
        example = files[0].name if files else "no picture"
        raise InputError(
            f"--images={folder}: found {len(files)} pictures ({example}), but none is named after "
            f"an item, such as {item_ids[0]}.jpg"
        )
    if others:
        notes.append(f"{folder.name}: {others} pictures belong to no item of the data set")
    unread = [
        path
        for path in everything
        if path.suffix.lower() not in _SUFFIXES and not {path.stem, path.name}.isdisjoint(place)
    ]
    if unread:
        notes.append(
            f"{folder.name}: {len(unread)} files named after an item are not read, such as "
            f"{unread[0].name}; a picture ends in {', '.join(_SUFFIXES)}"
        )
    return found


def decode(paths: Mapping[int, Path], place: int) -> Any:
    """The picture of an item as a viewer shows it, in RGB.

    Turned by its EXIF orientation. Transparent parts are white. Of an animation, the first frame.
    Grey values of 16 bits become 8 bits.

    Raises:
      InputError: the file is not a picture, is truncated, or has numbers without a largest value.
    """
    from PIL import Image, ImageOps

    path = paths[place]
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # `convert` would make values from 256 on white.
                upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
            if upright.mode in ("I", "F"):
                raise ValueError("its numbers have no largest value, so no value is white")
            if not upright.has_transparency_data:
                return upright.convert("RGB")
            opaque = Image.new("RGBA", upright.size, "white")
            opaque.alpha_composite(upright.convert("RGBA"))
            return opaque.convert("RGB")
    except Exception as error:  # Decoders raise their own types.
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: cannot be decoded as a picture ({why}); get it again, or "
            "--bad_images=missing gives the item the mean"
        ) from error
