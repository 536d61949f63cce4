"""fedvlr_jax: a compiled simulator of personalised federated multimodal recommendation."""

__version__ = "0.1.0"
