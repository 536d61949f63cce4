"""Order of the rows, missing items, interrupted runs, and refused input."""

import contextlib
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedvlr_jax.data.mmrec_folder import feature_files
from fedvlr_jax.data.titles import read_titles
from fedvlr_jax.encoding import Settings, encode_pictures, encode_titles, encoder, features, rows
from fedvlr_jax.encoding.pictures import decode
from fedvlr_jax.errors import InputError
from tests.prepare.forms import put

IDS = ["a", "007", "c", "d"]


def fake(calls):
    """An encoder whose rows are the lengths of texts or the mean colours of pictures."""

    def encode(items):
        assert len(items) == encoder.TILE
        calls.append(len(items))
        if isinstance(items[0], str):
            return np.array([[len(text), 1] for text in items], np.float32)
        return np.array([np.asarray(item).mean(axis=(0, 1)) for item in items], np.float32)

    return encoder.Encoder(encode, {"encoder": "fake"})


def picture(path, colour):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)


@pytest.fixture
def model(monkeypatch, tmp_path):
    """Settings of an encoder that is loaded from a folder, and the list of its calls."""
    calls = []
    monkeypatch.setattr(features, "load_encoder", lambda *_: fake(calls))
    put(tmp_path / "weights/model.bin", "x")
    return Settings(encoder="open_clip", weights=f"local-dir:{tmp_path / 'weights'}"), calls


def test_titles_by_hashing(tmp_path):
    titles = ["red river", "", "blue river", "!"]
    found = encode_titles(tmp_path, titles, Settings(encoder="hashing"))
    stored = np.load(tmp_path / "text_features.npy")
    assert stored.dtype == np.float32 and np.array_equal(stored, found.rows)
    mean = (stored[0].astype(float) + stored[2]) / 2
    np.testing.assert_allclose(stored[1], mean, rtol=1e-6)
    np.testing.assert_allclose(stored[3], mean, rtol=1e-6)
    manifest = json.loads((tmp_path / "text_features.json").read_text())
    assert (manifest["items"], manifest["missing"], manifest["encoder"]) == (4, 2, "hashing")
    assert found.notes == ("2 columns instead of --width=128: the rank of the titles",)
    with pytest.raises(InputError, match="overwrite"):
        encode_titles(tmp_path, titles, Settings(encoder="hashing"))


def test_a_manifest_is_beside_its_array_wherever_the_process_stops(tmp_path, monkeypatch):
    """The process is killed before each step of the second call, and then in none."""
    first, second = (Settings(encoder="hashing", overwrite=True, width=width) for width in (1, 2))
    titles = ["red river", "blue river", "sea"]
    for last in itertools.count():
        encode_titles(tmp_path, titles, first)
        steps = itertools.count()

        def killed_at(step, steps=steps, last=last):
            def call(*arguments, **options):
                if next(steps) == last:
                    raise KeyboardInterrupt
                return step(*arguments, **options)

            return call

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(features.np, "save", killed_at(np.save))
            for name in ("replace", "unlink", "write_text"):
                patch.setattr(Path, name, killed_at(getattr(Path, name)))
            encode_titles(tmp_path, titles, second)
        manifest = tmp_path / "text_features.json"
        if manifest.exists():
            digest = hashlib.sha256((tmp_path / "text_features.npy").read_bytes()).hexdigest()
            assert json.loads(manifest.read_text())["sha256"] == digest
        assert feature_files(tmp_path).keys() == {"text"}
        if next(steps) <= last:
            break
    assert last > 3 and json.loads(manifest.read_text())["width"] == 2


def test_prompt_and_missing_title(model, tmp_path):
    settings, _ = model
    found = encode_titles(
        tmp_path, ["ab", ""], settings, prompt="It is {title}.", missing_title="none"
    )
    assert found.rows[:, 0].tolist() == [len("It is ab."), len("none")]
    assert found.manifest["missing"] == 0 and found.manifest["weights"].keys() == {"model.bin"}


def test_pictures(model, tmp_path):
    settings, _ = model
    images = tmp_path / "images"
    picture(images / "a.png", (10, 20, 30))
    picture(images / "007.png", (30, 40, 50))
    picture(images / "other.png", (0, 0, 0))
    settings = settings._replace(modality="image")
    found = encode_pictures(tmp_path, IDS, images, settings)
    mean = [20, 30, 40]
    assert found.rows.tolist() == [[10, 20, 30], [30, 40, 50], mean, mean]
    assert found.notes == ("images: 1 pictures belong to no item of the data set",)
    assert not list(tmp_path.glob(".*"))


def test_pictures_that_cannot_be_used(model, tmp_path):
    settings, _ = model
    images = tmp_path / "images"
    encode = lambda **more: encode_pictures(
        tmp_path, IDS, images, settings._replace(modality="image"), **more
    )
    with pytest.raises(InputError, match="no such folder"):
        encode()
    picture(images / "zzz.png", (0, 0, 0))
    with pytest.raises(InputError, match=r"none is named after an item, such as a\.jpg"):
        encode()
    put(images / "c.jpg", "no picture")
    with pytest.raises(InputError, match="none of the 1 pictures can be decoded"):
        encode(skip_bad=True)
    picture(images / "a.png", (1, 1, 1))
    with pytest.raises(InputError, match=r"c\.jpg: cannot be decoded .* bad_images=missing"):
        encode()
    assert not (tmp_path / "image_features.npy").exists()
    assert encode(skip_bad=True).manifest["missing"] == 3
    picture(images / "a.jpg", (1, 1, 1))
    with pytest.raises(InputError, match="a second picture of item a"):
        encode(skip_bad=True)


def decoded(image, path, **options):
    """The colours of a picture that is saved and decoded, [height, width, 3]."""
    image.save(path, **options)
    return np.asarray(decode({0: path}, 0)).tolist()


def test_a_picture_is_decoded_as_a_viewer_shows_it(tmp_path):
    red, blue, white, grey = [255, 0, 0], [0, 0, 255], [255, 255, 255], [10, 10, 10]
    upright = Image.fromarray(np.array([[red, blue]], np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6  # Show the picture turned by 90 degrees, clockwise.
    assert decoded(upright, tmp_path / "t.png", exif=turned) == [[red], [blue]]
    glass = Image.fromarray(np.array([[[0, 0, 0, 0], [*red, 255]]], np.uint8))
    assert decoded(glass, tmp_path / "glass.png") == [[white, red]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([0, 0, 0])
    assert decoded(palette, tmp_path / "p.gif", transparency=0) == [[white]]
    deep = Image.fromarray(np.array([[0, 257 * 10, 257 * 10 + 256, 65535]], np.uint16))
    black = [0, 0, 0]
    for suffix in ("png", "tif"):
        assert decoded(deep, tmp_path / f"deep.{suffix}") == [[black, grey, grey, white]]
    for kind in (np.int32, np.float32):
        with pytest.raises(InputError, match=r"numbers\.tif: .* no largest value"):
            decoded(Image.fromarray(np.ones((2, 2), kind)), tmp_path / "numbers.tif")
    first, second = (Image.new("RGB", (1, 1), colour) for colour in ((10, 10, 10), (200, 200, 200)))
    moving = {"save_all": True, "append_images": [second]}
    assert decoded(first, tmp_path / "moving.gif", **moving) == [[grey]]


def test_pictures_of_any_suffix_are_read_or_named(model, tmp_path):
    settings, _ = model
    images = tmp_path / "images"
    for name in ("a.TIFF", "007.jfif"):
        images.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(images / name, format="TIFF" if "a" in name else "JPEG")
    put(images / "c.heic", "x")
    put(images / "d", "x")
    found = encode_pictures(tmp_path, IDS, images, settings._replace(modality="image"))
    assert found.manifest["missing"] == 2
    assert "images: 2 files named after an item are not read, such as c.heic" in found.notes[0]


def test_rows_do_not_depend_on_the_batch_or_on_a_stop(tmp_path):
    def encode(items):
        # Each row depends on the other rows and on the batch size, as with real kernels.
        return np.array([[item, sum(items), len(items)] for item in items], np.float32)

    places = list(range(0, 100, 2))
    found = []
    for name, batch in (("one", 1), ("some", 20), ("all", 1000)):
        found.append(
            rows.encode_rows(
                encoder.Encoder(encode, {}),
                places,
                lambda place: place,
                batch_size=batch,
                partial=tmp_path / name,
                key="k",
            )
        )
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_a_stopped_run_goes_on(tmp_path):
    calls = []
    read = []

    def stop(place):
        read.append(place)
        if place == 40 and len(read) < 45:
            raise KeyboardInterrupt
        return "x" * place

    options = dict(batch_size=16, partial=tmp_path / "partial", key="k")
    with pytest.raises(KeyboardInterrupt):
        rows.encode_rows(fake(calls), range(50), stop, **options)
    assert len(calls) == 2
    found = rows.encode_rows(fake(calls), range(50), lambda i: "x" * i, **options)
    assert found[:, 0].tolist() == list(range(50)) and len(calls) == 4
    rows.encode_rows(fake(calls), range(50), lambda i: "x" * i, **{**options, "key": "other"})
    assert len(calls) == 8


def test_a_stopped_run_does_not_go_on_with_other_pictures(model, tmp_path):
    """Both pictures have the same number of bytes."""
    settings, calls = model
    settings = settings._replace(modality="image", batch_size=16)
    ids = [f"p{place:02d}" for place in range(17)]
    images = tmp_path / "images"
    images.mkdir()
    for name in ids:
        Image.new("RGB", (4, 4), (10, 20, 30)).save(images / f"{name}.bmp")

    def stop(done, total):
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_pictures(tmp_path, ids, images, settings, progress=stop)
    Image.new("RGB", (4, 4), (40, 50, 60)).save(images / "p00.bmp")
    found = encode_pictures(tmp_path, ids, images, settings)
    assert found.rows[0].tolist() == [40, 50, 60] and len(calls) == 3


def test_features_of_the_other_name_are_not_doubled(tmp_path):
    np.save(tmp_path / "text_feat.npy", np.ones((2, 2), np.float32))
    with pytest.raises(InputError, match=r"text_feat\.npy: holds features of the modality text"):
        encode_titles(tmp_path, ["a b", "c"], Settings(encoder="hashing", overwrite=True))
    assert feature_files(tmp_path).keys() == {"text"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("8 requested and 3 written"), "8 requested and 3 written"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(error, reason, tmp_path, monkeypatch, model):
    def full(file, array):
        if isinstance(file, Path):
            file.write_bytes(b"a part")
        raise error

    (tmp_path / "data").mkdir()
    monkeypatch.setattr(np, "save", full)
    for settings in (Settings(encoder="hashing"), model[0]):
        with pytest.raises(InputError, match=f"data.*: cannot be written: {reason}$"):
            encode_titles(tmp_path / "data", ["red river", "blue"], settings)
    left = [path.name for path in (tmp_path / "data").rglob("*")]
    # The key of an interrupted run: the same command resumes.
    assert left == [".text_features.partial", "key"]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"encoder": "torchvision"}, "encoder=torchvision: does not encode titles"),
        ({"encoder": "open_clip"}, "encoder=open_clip: needs weights"),
        ({"encoder": "open_clip", "weights": "local-dir:absent"}, "no such folder"),
        ({"encoder": "hashing", "modality": "id"}, "modality=id"),
        ({"encoder": "hashing", "modality": "a/b"}, "modality=a/b"),
    ],
)
def test_settings_that_do_not_fit(settings, found, tmp_path):
    with pytest.raises(InputError, match=found):
        encode_titles(tmp_path, ["a b", "c"], Settings(**settings))
    assert not list(tmp_path.iterdir())


def test_other_refusals(tmp_path):
    with pytest.raises(InputError, match="no item has a title"):
        encode_titles(tmp_path, ["", ""], Settings(encoder="hashing"))
    with pytest.raises(InputError, match="no title has a word"):
        encode_titles(tmp_path, ["!!!", "???"], Settings(encoder="hashing"))
    assert not list(tmp_path.glob("*.npy"))
    with pytest.raises(InputError, match=r"has no \{title\}"):
        encode_titles(tmp_path, ["a"], Settings(encoder="hashing"), prompt="x")


def test_a_missing_extra_is_one_line(monkeypatch, tmp_path):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(encoder.importlib, "import_module", absent)
    settings = Settings(encoder="open_clip", weights=str(tmp_path))
    with pytest.raises(InputError, match=r"pip install 'fedvlr_jax\[clip\]'"):
        encode_titles(tmp_path, ["a"], settings)


def test_titles_of_a_data_set(tmp_path):
    assert read_titles(tmp_path, IDS) is None
    put(tmp_path / "items.csv", 'itemID,item_id,title\n2,c,"Two\nlines"\n0,a,A\n')
    assert read_titles(tmp_path, IDS).tolist() == ["A", "", "Two lines", ""]
    put(tmp_path / "items.csv", "itemID,title\n007,Seven\n")
    assert read_titles(tmp_path, IDS).tolist() == ["", "Seven", "", ""]
    put(tmp_path / "items.csv", "itemID,title\n0,A\n1,B\n2,C\n3,D\n4,E\n")
    with pytest.raises(InputError, match=r"items\.csv, row 6, column itemID: found '4'"):
        read_titles(tmp_path, IDS)
    put(tmp_path / "items.csv", "itemID,title\n007,Seven\na,A\n99,B\n")
    with pytest.raises(InputError, match=r"items\.csv, row 4, column itemID: found '99'"):
        read_titles(tmp_path, IDS)
    put(tmp_path / "items.csv", "itemID,title\n0,A\n0,B\n")
    with pytest.raises(InputError, match="row 3, column itemID: item '0' occurs again"):
        read_titles(tmp_path, IDS)


def test_the_kind_of_ids_in_items_csv(tmp_path):
    """The ids 1, 2 and 3 without the title of 3: all itemIDs may be of both kinds."""
    put(tmp_path / "items.csv", "itemID,title\n1,One\n2,Two\n")
    assert read_titles(tmp_path, ["1", "2", "3"]).tolist() == ["One", "Two", ""]
    put(tmp_path / "i_id_mapping.csv", "item_id,itemID\n1,0\n2,1\n3,2\n")
    assert read_titles(tmp_path, ["1", "2", "3"]).tolist() == ["", "One", "Two"]
