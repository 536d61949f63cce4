"""The loading code of each encoder, on small checkpoints that the tests write in the real format.

A test skips if its library, an extra of the package, is not installed.
"""

import json
import os

import numpy as np
import pytest
from PIL import Image

from fedvlr_jax.encoding import Settings, encode_pictures, encode_titles
from fedvlr_jax.encoding.models import load_encoder
from fedvlr_jax.errors import InputError

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")

TITLES = [f"red stone {n} " + "river " * (n % 5) for n in range(21)]
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for place in range(20):
        pixels = draw.integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"id{place}.png")
    return folder


def clip_folder(folder):
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**CLIP)
    folder.mkdir()
    config = {"model_cfg": CLIP, "preprocess_cfg": {"size": 32}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return model.eval(), open_clip


def bert_folder(folder):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "stone", "river"]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


def sentence_folder(folder):
    """Writes a model of sentence_transformers: a transformer, and a mean over its tokens."""
    pytest.importorskip("sentence_transformers")
    bert_folder(folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))


def vit_folder(folder):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
    )
    transformers.ViTModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder)


def settings(encoder, folder, **more):
    return Settings(encoder=encoder, weights=f"local-dir:{folder}", **more)


def same_for_every_batch(encode):
    """One batch, many batches, and one item at a time give equal bits."""
    found = [encode(batch).rows for batch in (1, 16, 512)]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    return found[0]


def test_clip_reads_titles_and_pictures(tmp_path, images):
    model, open_clip = clip_folder(tmp_path / "clip")
    ids = [f"id{place}" for place in range(21)]

    def texts(batch):
        how = settings("open_clip", tmp_path / "clip", batch_size=batch, overwrite=True)
        return encode_titles(tmp_path, TITLES, how)

    rows = same_for_every_batch(texts)
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=12)(TITLES)
    with torch.inference_mode():
        expected = model.encode_text(tokens, normalize=True).numpy()
    np.testing.assert_allclose(rows, expected, atol=1e-6)

    def pictures(batch):
        more = {"batch_size": batch, "overwrite": True, "modality": "image"}
        return encode_pictures(
            tmp_path, ids, images, settings("open_clip", tmp_path / "clip", **more)
        )

    rows = same_for_every_batch(pictures)
    assert rows.shape == (21, 16)
    np.testing.assert_allclose(np.linalg.norm(rows[:20], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(rows[20], rows[:20].mean(axis=0), atol=1e-6)


def test_clip_of_another_architecture(tmp_path):
    clip_folder(tmp_path / "clip")
    wide = {**CLIP, "embed_dim": 32}
    config = tmp_path / "clip/open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": wide}))
    with pytest.raises(InputError, match=r"not a model that encoder=open_clip loads \(.*size"):
        load_encoder("open_clip", "text", tmp_path / "clip", "cpu")
    (tmp_path / "clip/open_clip_pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="no file of weights"):
        load_encoder("open_clip", "text", tmp_path / "clip", "cpu")
    config.unlink()
    with pytest.raises(InputError, match="not a model that"):
        load_encoder("open_clip", "text", tmp_path / "clip", "cpu")


def test_sentence_transformers(tmp_path):
    sentence_folder(tmp_path / "sentence")

    def texts(batch):
        how = settings("sentence_transformers", tmp_path / "sentence", batch_size=batch)
        return encode_titles(tmp_path, TITLES, how._replace(overwrite=True))

    rows = same_for_every_batch(texts)
    assert rows.shape == (21, 16) and len(np.unique(rows, axis=0)) > 4


def test_transformers_reads_titles_and_pictures(tmp_path, images):
    bert_folder(tmp_path / "bert")
    encoder = load_encoder("transformers", "text", tmp_path / "bert", "cpu")
    rows = encoder.encode(["red", "red stone river river", "red"])
    assert rows.shape == (3, 16)
    # Padding does not change a row: encode the same title together with a longer one.
    np.testing.assert_allclose(rows[0], encoder.encode(["red"])[0], atol=1e-5)
    vit_folder(tmp_path / "vit")
    more = {"modality": "image"}
    found = encode_pictures(
        tmp_path, ["id0", "id1"], images, settings("transformers", tmp_path / "vit", **more)
    )
    np.testing.assert_allclose(np.linalg.norm(found.rows, axis=1), 1, rtol=1e-5)


def test_a_transformer_that_lacks_weights(tmp_path):
    bert_folder(tmp_path / "bert")
    config = json.loads((tmp_path / "bert/config.json").read_text())
    config["num_hidden_layers"] = 2
    (tmp_path / "bert/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"the weights lack \d+ tensors"):
        load_encoder("transformers", "text", tmp_path / "bert", "cpu")
    pytest.importorskip("sentence_transformers")
    with pytest.raises(InputError, match=r"no modules\.json"):
        load_encoder("sentence_transformers", "text", tmp_path / "bert", "cpu")


def test_a_model_that_needs_other_inputs(tmp_path):
    """CLIP needs a title and a picture."""
    transformers = pytest.importorskip("transformers")
    small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 9, "eos_token_id": 2, "bos_token_id": 1},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**sizes).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"not a model that encoder=transformers loads .* input_ids"
    ):
        load_encoder("transformers", "image", tmp_path, "cpu")


def test_a_device_that_is_absent(tmp_path):
    absent = ["nowhere"] if torch.cuda.is_available() else ["nowhere", "cuda"]
    for device in absent:
        with pytest.raises(InputError, match=rf"^device={device}: cannot be used \("):
            load_encoder("transformers", "text", tmp_path, device)


def test_torchvision(tmp_path, images):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(weights=None)
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(model.state_dict(), folder / "resnet18-0123abcd.pth")
    with pytest.raises(InputError, match="not a model that encoder=torchvision loads"):
        load_encoder("torchvision", "image", folder, "cpu")
    (folder / "resnet18-0123abcd.pth").unlink()
    model = torchvision.models.resnet18(weights=None)
    torch.save(model.state_dict(), folder / "resnet18-0123abcd.pth")
    found = encode_pictures(
        tmp_path, ["id0", "id1"], images, settings("torchvision", folder, modality="image")
    )
    assert found.rows.shape == (2, 512)
    (folder / "resnet18-0123abcd.pth").rename(folder / "mynet.pth")
    with pytest.raises(InputError, match="no architecture is named 'mynet'"):
        load_encoder("torchvision", "image", folder, "cpu")


def test_the_sentence_encoder_of_the_released_features(tmp_path, data_root):
    """Titles of Beauty through a packaged all-MiniLM-L6-v2 give its text features."""
    package = pytest.importorskip("all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    from fedvlr_jax.data.loading import load_dataset
    from fedvlr_jax.data.titles import read_titles

    dataset = load_dataset("Beauty", data_root=data_root)
    titles = read_titles(data_root / "Beauty", dataset.item_ids.tolist())
    folder = package.extract_model(str(tmp_path))
    prompt = "The title of this item is: {title}."
    how = settings("sentence_transformers", folder)
    found = encode_titles(tmp_path, titles.tolist()[:48], how, prompt=prompt)
    np.testing.assert_allclose(found.rows, dataset.features["text"][:48], atol=2e-3)
