"""Sessions by day and night, as in the FLASH trace: who is available, and until when."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

from fedvlr_jax.fleet import draws
from fedvlr_jax.fleet.availability import Availability

DAY_S, HOUR_S = 86400.0, 3600.0

# The FLASH trace, 1,000 devices; available: idle, on WiFi and charging (Yang et al. 2021; fitted).
NEVER_ELIGIBLE = 0.296
SHARE_OF_TIME = (0.55, 5.18)
SESSIONS_A_DAY = (0.5, 3.0, 9.9)
# The sigma of the logarithm of a session's length within one client, and the correlation of the
# share of time and the sessions a day. They give the pooled lengths the published median of 2.3
# minutes, mean of 32 and sigma of the logarithm of 2.6.
LENGTH_SIGMA, SHARE_SESSIONS_CORRELATION = 1.88, 0.3
LONGEST_SESSION_S = DAY_S
# The weight of an hour: its largest and smallest, and when.
PEAK, LOW = (4.0, 1.46), (13.0, 0.69)


class Habits(NamedTuple):
    """The habits of some clients; [K] each.

    Attributes:
      share: the share of time in which the client is available; 0: never.
      arrivals: sessions that begin in a day; overlapping sessions count as one.
      log_length: the mean of the logarithm of a session's length in s.
    """

    share: np.ndarray
    arrivals: np.ndarray
    log_length: np.ndarray


def hour_weights(hours: np.ndarray) -> np.ndarray:
    """The relative rate of sessions that begin at an hour in [0, 24); its mean is 1.

    Between the peak and the low it is a power of a cosine; the power makes the mean 1.
    """
    down = (hours - PEAK[0]) % 24
    falling = LOW[0] - PEAK[0]
    phase = np.where(down <= falling, down / falling, 1 - (down - falling) / (24 - falling))
    power = 1.68
    return LOW[1] + (PEAK[1] - LOW[1]) * ((1 + np.cos(np.pi * phase)) / 2) ** power


@functools.cache
def _start_table() -> tuple[np.ndarray, np.ndarray]:
    """(probability, hour): the distribution of the hour at which a session begins."""
    hours = np.linspace(0, 24, 961)
    middle = hour_weights((hours[1:] + hours[:-1]) / 2)
    return np.append(0, np.cumsum(middle) / middle.sum()), hours


@functools.cache
def _share_table() -> tuple[np.ndarray, np.ndarray]:
    """(normal score, share of time) of the Beta distribution: a table, as its quantile is slow."""
    from scipy import stats  # The import takes most of a second; only this clock needs it.

    scores = np.linspace(-5, 5, 4001)
    return scores, stats.beta(*SHARE_OF_TIME).ppf(special.ndtr(scores))


@functools.cache
def _length_table() -> tuple[np.ndarray, np.ndarray]:
    """(logarithm of the mean length in s, mean of the logarithm); lengths are at most a day."""
    mean = np.linspace(-60, 16, 4000)
    edge = (np.log(LONGEST_SESSION_S) - mean) / LENGTH_SIGMA
    inside = np.exp(mean + LENGTH_SIGMA**2 / 2) * special.ndtr(edge - LENGTH_SIGMA)
    return np.log(inside + LONGEST_SESSION_S * special.ndtr(-edge)), mean


def habits(seed: int, clients: np.ndarray) -> Habits:
    """The habits of some clients, functions of (seed, client).

    Sessions begin as a Poisson process and last independently, so the client is available for a
    share 1 - exp(-load) of the time, and a session that overlaps no earlier one begins
    arrivals * exp(-load) times a day. Both are solved for the published numbers.
    """
    first = draws.normal(seed, draws.SHARE, clients)
    other = draws.normal(seed, draws.SESSIONS, clients)
    share = np.interp(first, *_share_table())
    score = SHARE_SESSIONS_CORRELATION * first
    score += np.sqrt(1 - SHARE_SESSIONS_CORRELATION**2) * other
    low, middle, high = np.log(SESSIONS_A_DAY)
    spread = np.where(score < 0, middle - low, high - middle) / special.ndtri(0.9)
    sessions = np.exp(middle + spread * score)
    load = -np.log1p(-share)
    # With fewer sessions their mean length would exceed a day.
    arrivals = np.maximum(sessions / (1 - share), load * DAY_S / (0.8 * LONGEST_SESSION_S))
    arrivals = np.minimum(arrivals, 200.0)
    log_length = np.interp(np.log(load * DAY_S / arrivals + 1e-24), *_length_table())
    eligible = draws.draw(seed, draws.ELIGIBLE, clients) >= NEVER_ELIGIBLE
    return Habits(np.where(eligible, share, 0.0), np.where(eligible, arrivals, 0.0), log_length)


def sessions(
    seed: int,
    clients: np.ndarray,
    day: int,
    own: Habits,
    hours: tuple[float, float] = (0.0, 24.0),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sessions that begin on one day: (place in `clients`, begin, end in s), in no order.

    Days count from 0 at the start of the run; the day before it is -1.

    Args:
      hours: the result has all sessions that begin between these hours, and hardly any others.
    """
    arrived = draws.draw(seed, draws.ARRIVALS, clients, day)
    counts = draws.poisson(arrived, own.arrivals)
    place = np.repeat(np.arange(len(clients)), counts)
    number = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
    who = clients[place]
    start = draws.draw(seed, draws.START, who, day, number)
    probability, hour_of = _start_table()
    # Filter before the slow part. The margin covers the rounding of the two interpolations.
    low, high = np.interp(hours, hour_of, probability)
    kept = np.flatnonzero((start >= low - 1e-9) & (start <= high + 1e-9))
    place, number, who = place[kept], number[kept], who[kept]
    hour = np.interp(start[kept], probability, hour_of)
    log_length = own.log_length[place]
    log_length = log_length + LENGTH_SIGMA * draws.normal(seed, draws.LENGTH, who, day, number)
    begin = day * DAY_S + hour * HOUR_S
    return place, begin, begin + np.minimum(np.exp(log_length), LONGEST_SESSION_S)


def diurnal(kept_clients: int = 0) -> Availability:
    """Sessions as in the FLASH trace, with the published swing between day and night.

    Time 0 is midnight, for all clients in one time zone. `until` is the last end of the sessions
    that have begun; a session that begins before that end does not lengthen it.

    Args:
      kept_clients: the population, to keep its sessions of some days in memory: about 100 bytes per
        client and day, and faster if a day has many rounds. 0: keep nothing. The sessions are the
        same.
    """
    a, b = SHARE_OF_TIME
    until = _until_of_kept(kept_clients) if kept_clients else _until_of_some
    return Availability(until, (1 - NEVER_ELIGIBLE) * a / (a + b))


def _until_of_some(seed: int, clients: np.ndarray, time: float) -> np.ndarray:
    """`Availability.until`; computes the sessions of the given clients at each call."""
    own = habits(seed, clients)
    able = np.flatnonzero(own.arrivals > 0)
    chosen = Habits(*(values[able] for values in own))
    end = np.full(len(clients), -np.inf)
    today = int(time // DAY_S)
    hour = (time - today * DAY_S) / HOUR_S
    # No session lasts longer than a day.
    for day, hours in ((today - 1, (hour, 24.0)), (today, (0.0, hour))):
        place, begin, finish = sessions(seed, clients[able], day, chosen, hours)
        now = (begin <= time) & (finish > time)
        np.maximum.at(end, able[place[now]], finish[now])
    return end


def _until_of_kept(num_clients: int) -> Callable[[int, np.ndarray, float], np.ndarray]:
    """`Availability.until`; keeps the sessions of all clients for some days."""

    @functools.lru_cache(maxsize=3)
    def sessions_of(seed: int, day: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        everyone = np.arange(num_clients)
        own = habits(seed, everyone)
        able = np.flatnonzero(own.arrivals > 0)
        chosen = Habits(*(values[able] for values in own))
        place, begin, finish = sessions(seed, able, day, chosen)
        return able[place], begin, finish

    def until(seed: int, clients: np.ndarray, time: float) -> np.ndarray:
        end, today = np.full(num_clients, -np.inf), int(time // DAY_S)
        for day in (today - 1, today):
            client, begin, finish = sessions_of(seed, day)
            now = np.flatnonzero((begin <= time) & (finish > time))
            np.maximum.at(end, client[now], finish[now])
        return end[clients]

    return until
