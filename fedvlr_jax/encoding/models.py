"""Encoders that need a library and a folder of weights. Every import is inside a function.

A folder that lacks weights of the model is refused: some libraries would initialise the missing
weights with random numbers.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedvlr_jax.encoding.encoder import TILE, Encoder, cannot_load, imported
from fedvlr_jax.errors import InputError

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


def load_encoder(name: str, kind: str, weights: Path, device: str) -> Encoder:
    """Loads one of `ENCODERS` other than "hashing".

    Args:
      kind: "text" or "image".
      weights: the folder of the model.
      device: the device of torch, such as "cpu" or "cuda".

    Raises:
      InputError: the library is missing, the device cannot be used, or the folder has only part of
        a model, or one that does not encode inputs of `kind`.
    """
    torch = imported("torch", name)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: built without the device.
        line = " ".join(str(error).split())[:200]
        raise InputError(f"--device={device}: cannot be used ({line})") from error
    load = {
        "open_clip": _open_clip,
        "sentence_transformers": _sentence_transformers,
        "transformers": _transformers,
        "torchvision": _torchvision,
    }[name]
    encoder = load(kind, weights, device)
    with _loading(weights, name):  # Some models load and need other inputs.
        encoder.encode([_example(kind)] * TILE)
    return encoder


def _example(kind: str) -> Any:
    """A text or a decoded picture."""
    if kind == "text":
        return "a"
    from PIL import Image

    return Image.new("RGB", (64, 64))


@contextlib.contextmanager
def _loading(weights: Path, encoder: str) -> Iterator[None]:
    """Turns any exception of the block into the error of `cannot_load`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Each library raises its own types.
        raise cannot_load(weights, encoder, error) from error


def _described(encoder: str, model: str, *packages: str) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", *packages)}
    return {"encoder": encoder, "model": model, "versions": versions}


def _rows(forward: Callable[[Any], Any], batch: Any) -> np.ndarray:
    torch = imported("torch", "transformers")
    with torch.inference_mode():
        return forward(batch).float().cpu().numpy().astype(np.float32)


def _open_clip(kind: str, weights: Path, device: str) -> Encoder:
    """A CLIP model saved by open_clip: open_clip_config.json and the weights; unit rows."""
    open_clip = imported("open_clip", "open_clip")
    torch = imported("torch", "open_clip")
    name = f"local-dir:{weights}"
    with _loading(weights, "open_clip"):
        if not any(path for pattern in _WEIGHTS for path in weights.glob(pattern)):
            raise cannot_load(weights, "open_clip", "no file of weights")
        model, _, preprocess = open_clip.create_model_and_transforms(name)
        tokenizer = open_clip.get_tokenizer(name) if kind == "text" else None
    model = model.to(device).eval()

    def encode(items: Sequence[Any]) -> np.ndarray:
        if tokenizer is not None:
            return _rows(
                lambda x: model.encode_text(x, normalize=True), tokenizer(items).to(device)
            )
        pixels = torch.stack([preprocess(item) for item in items]).to(device)
        return _rows(lambda x: model.encode_image(x, normalize=True), pixels)

    described = _described("open_clip", type(model).__name__, "open_clip_torch", "torchvision")
    return Encoder(encode, described)


def _checked_transformer(transformers: Any, weights: Path, encoder: str) -> Any:
    """Loads the model of the folder.

    Raises:
      InputError: weights are missing or have another shape.
    """
    model, loading = transformers.AutoModel.from_pretrained(
        weights, local_files_only=True, output_loading_info=True
    )
    # Some checkpoints have no pooling head; the encoders do not use it.
    missing = sorted(key for key in loading["missing_keys"] if "pooler" not in key)
    wrong = missing or sorted(map(str, loading.get("mismatched_keys") or ()))
    if wrong:
        raise cannot_load(weights, encoder, f"the weights lack {len(wrong)} tensors: {wrong[0]}")
    return model


def _sentence_transformers(kind: str, weights: Path, device: str) -> Encoder:
    """A sentence encoder saved by sentence_transformers, with its pooling and scaling."""
    library = imported("sentence_transformers", "sentence_transformers")
    transformers = imported("transformers", "sentence_transformers")
    with _loading(weights, "sentence_transformers"):
        if not (weights / "modules.json").is_file():
            raise cannot_load(
                weights,
                "sentence_transformers",
                "no modules.json; --encoder=transformers reads a bare transformer",
            )
        _checked_transformer(transformers, _transformer_folder(weights), "sentence_transformers")
        model = library.SentenceTransformer(str(weights), device=device, local_files_only=True)

    def encode(items: Sequence[Any]) -> np.ndarray:
        rows = model.encode(list(items), batch_size=len(items), show_progress_bar=False)
        return np.asarray(rows, np.float32)

    packages = ("sentence-transformers", "transformers")
    return Encoder(encode, _described("sentence_transformers", weights.name, *packages))


def _transformer_folder(weights: Path) -> Path:
    """The folder of the transformer: `weights` itself or its first module."""
    return weights if (weights / "config.json").is_file() else weights / "0_Transformer"


def _transformers(kind: str, weights: Path, device: str) -> Encoder:
    """A transformer: the mean over a title's tokens, or over a picture's patches; unit rows."""
    transformers = imported("transformers", "transformers")
    with _loading(weights, "transformers"):
        model = _checked_transformer(transformers, weights, "transformers")
        loader = transformers.AutoTokenizer if kind == "text" else transformers.AutoImageProcessor
        prepare = loader.from_pretrained(weights, local_files_only=True)
    model = model.to(device).eval()

    def encode(items: Sequence[Any]) -> np.ndarray:
        if kind == "text":
            inputs = prepare(list(items), padding=True, truncation=True, return_tensors="pt")
        else:
            inputs = prepare(images=list(items), return_tensors="pt")
        inputs = inputs.to(device)
        return _rows(lambda x: _mean_state(model(**x), x.get("attention_mask")), inputs)

    return Encoder(encode, _described("transformers", type(model).__name__, "transformers"))


def _mean_state(output: Any, mask: Any) -> Any:
    """[n, width], unit rows: the mean of the last hidden states without padding tokens."""
    torch = imported("torch", "transformers")
    state = output.last_hidden_state
    if state.ndim == 4:  # A convolutional model: [n, channels, height, width of the grid].
        state = state.flatten(2).transpose(1, 2)
    if mask is None:
        mean = state.mean(dim=1)
    else:
        weight = mask.unsqueeze(-1).to(state.dtype)
        mean = (state * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
    return torch.nn.functional.normalize(mean, dim=-1)


def _torchvision(kind: str, weights: Path, device: str) -> Encoder:
    """A classifier of torchvision without its last layer; unit rows.

    The folder has one file ARCHITECTURE-HASH.pth or ARCHITECTURE.pth, as torchvision names it.
    """
    torch, torchvision = imported("torch", "torchvision"), imported("torchvision", "torchvision")
    with _loading(weights, "torchvision"):
        files = sorted(weights.glob("*.pth"))
        if len(files) != 1:
            raise cannot_load(weights, "torchvision", f"found {len(files)} .pth files, expected 1")
        architecture = files[0].stem.partition("-")[0]
        if architecture not in torchvision.models.list_models(module=torchvision.models):
            raise cannot_load(weights, "torchvision", f"no architecture is named {architecture!r}")
        model = torchvision.models.get_model(architecture, weights=None)
        model.load_state_dict(torch.load(files[0], map_location="cpu", weights_only=True))
    *_, (last, _) = model.named_children()
    setattr(model, last, torch.nn.Identity())
    model = model.to(device).eval()
    standard = torchvision.models.get_model_weights(architecture).DEFAULT.transforms()

    def encode(items: Sequence[Any]) -> np.ndarray:
        pixels = torch.stack([standard(item) for item in items]).to(device)
        unit = torch.nn.functional.normalize
        return _rows(lambda x: unit(model(x).flatten(1), dim=-1), pixels)

    return Encoder(encode, _described("torchvision", architecture, "torchvision"))
