"""Pictures of items: found by the ids in their names, decoded one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedvlr_jax.errors import InputError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


def find_pictures(folder: Path, item_ids: Sequence[str], notes: list[str]) -> dict[int, Path]:
    """Place of an item -> its picture, named ID.jpg or the like, anywhere below `folder`.

    Args:
      item_ids: the original ids, in the order of the rows.
      notes: gets a line for pictures that no item has.

    Raises:
      InputError: there is no such folder, no picture fits, or an item has two.
    """
    if not folder.is_dir():
        raise InputError(f"--images={folder}: no such folder")
    place = {str(item): i for i, item in enumerate(item_ids)}
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
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
        notes.append(f"{folder.name}: {others} pictures are of no item of the data set")
    return found


def decode(paths: Mapping[int, Path], place: int) -> Any:
    """The picture of an item, in RGB.

    Raises:
      InputError: the file is no picture, or is cut short.
    """
    from PIL import Image

    path = paths[place]
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Decoders have errors of their own.
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: cannot be decoded as a picture ({why}); get it again, or "
            "--bad_images=missing gives the item the mean"
        ) from error
