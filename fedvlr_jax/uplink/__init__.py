"""From a client's upload to the aggregation rule: representations, clipping, noise."""

from fedvlr_jax.uplink.banded import band_coefficients, banded_noise
from fedvlr_jax.uplink.clip import adaptive_clip, fixed_clip, private_adaptive_clip
from fedvlr_jax.uplink.compress import Compression, low_rank
from fedvlr_jax.uplink.joined_uploads import JoinedUploads
from fedvlr_jax.uplink.low_rank_uploads import LowRankUploads
from fedvlr_jax.uplink.noise import Noise, central_noise, client_noise, no_noise
from fedvlr_jax.uplink.slot_uploads import SlotUploads
from fedvlr_jax.uplink.transform import UplinkTransform, chain, identity
from fedvlr_jax.uplink.uploads import Needs, Upload, Uploads

__all__ = [
    "Compression",
    "JoinedUploads",
    "LowRankUploads",
    "Needs",
    "Noise",
    "SlotUploads",
    "UplinkTransform",
    "Upload",
    "Uploads",
    "adaptive_clip",
    "band_coefficients",
    "banded_noise",
    "central_noise",
    "chain",
    "client_noise",
    "fixed_clip",
    "identity",
    "low_rank",
    "no_noise",
    "private_adaptive_clip",
]
