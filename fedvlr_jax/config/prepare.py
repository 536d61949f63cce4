"""Values of the options of `prepare` and `features`."""

HEADER_NAMES = ("auto", "yes", "no")
DUPLICATE_NAMES = ("first", "last", "merge", "keep")
SPLIT_NAMES = ("none", "leave-one-out", "global-time")
RECIPE_NAMES = ("none", "mmrec")
PRESET_NAMES = (
    *("amazon-beauty", "amazon-cards", "movielens-small"),
    *("ninerec-ku", "ninerec-dance", "ninerec-food", "ninerec-movie"),
)
ENCODER_NAMES = ("hashing", "open_clip", "sentence_transformers", "transformers", "torchvision")
