"""The flags of `fedvlr features`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_config_flags, define_path
from fedvlr_jax.config.prepare import ENCODER_NAMES


def define_flags() -> None:
    flags.DEFINE_string("dataset", "", "Name of the data set: a folder in --data_root.")
    define_config_flags("data", only=("data_root",))
    flags.DEFINE_enum("encoder", "hashing", ENCODER_NAMES, "Encoder of the titles or pictures.")
    define_path("weights", "", "Folder of the encoder's files, such as local-dir:ViT-B-32.")
    flags.DEFINE_string("modality", "", "Name of the features. Empty: text or image.")
    define_path("titles", "", "File with titles. Empty: the data set's items.csv.")
    flags.DEFINE_string("item_id", "", "Column of the original item id in --titles.")
    flags.DEFINE_string("title", "", "Column of the title in --titles.")
    flags.DEFINE_string(
        "prompt", "{title}", "Text to encode. The command replaces {title} by the title."
    )
    flags.DEFINE_string(
        "missing_title", "", "Text for items without a title. Empty: they get the mean row."
    )
    define_path(
        "images", "", "Folder of pictures. Each file is named after the original id of its item."
    )
    flags.DEFINE_enum(
        "bad_images",
        "refuse",
        ("refuse", "missing"),
        "Treatment of pictures that cannot be decoded. refuse: the command ends with an error; "
        "missing: the item gets the mean row.",
    )
    flags.DEFINE_integer("width", 128, "Width of the features of --encoder=hashing.", lower_bound=1)
    flags.DEFINE_integer(
        "batch_size",
        0,
        "Number of items that are encoded at once. 0: as many as fit in memory.",
        lower_bound=0,
    )
    flags.DEFINE_string("device", "cpu", "Device of the encoder, such as cpu or cuda.")
    flags.DEFINE_boolean("overwrite", False, "Replaces features of the same name.")
