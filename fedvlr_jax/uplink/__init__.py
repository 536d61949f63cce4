"""From a client's upload to the aggregation rule: representations, clipping, noise."""

from fedvlr_jax.uplink.clip import adaptive_clip, fixed_clip
from fedvlr_jax.uplink.compress import low_rank
from fedvlr_jax.uplink.noise import Noise, central_noise, client_noise, no_noise
from fedvlr_jax.uplink.transform import UplinkTransform, chain, identity
from fedvlr_jax.uplink.uploads import JoinedUploads, Needs, Upload, Uploads

__all__ = [
    "JoinedUploads",
    "Needs",
    "Noise",
    "UplinkTransform",
    "Upload",
    "Uploads",
    "adaptive_clip",
    "central_noise",
    "chain",
    "client_noise",
    "fixed_clip",
    "identity",
    "low_rank",
    "no_noise",
]
