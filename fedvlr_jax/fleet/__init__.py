"""The clients' devices: their availability, their speed and the cost of a round."""

from fedvlr_jax.fleet.availability import Availability, always, uniform
from fedvlr_jax.fleet.clocks import make_participation
from fedvlr_jax.fleet.hardware import Hardware, make_hardware
from fedvlr_jax.fleet.participation import Participation, RoundSchedule
from fedvlr_jax.fleet.sessions import diurnal
from fedvlr_jax.fleet.traces import from_trace
from fedvlr_jax.fleet.transfer import SCHEMES, round_bytes

__all__ = [
    "SCHEMES",
    "Availability",
    "Hardware",
    "Participation",
    "RoundSchedule",
    "always",
    "diurnal",
    "from_trace",
    "make_hardware",
    "make_participation",
    "round_bytes",
    "uniform",
]
