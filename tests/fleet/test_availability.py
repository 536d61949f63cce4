"""Who is available when: against the published statistics, and by hand."""

import numpy as np
import pytest
from scipy import stats

from fedvlr_jax.errors import InputError
from fedvlr_jax.fleet import diurnal, draws, from_trace, sessions, traces, uniform

CLIENTS = np.arange(10_000)
DAYS = range(2, 9)


@pytest.fixture(scope="module")
def merged():
    """(client, begin, end) of the sessions that begin within a week, joined where they overlap."""
    habits = sessions.habits(0, CLIENTS)
    parts = [sessions.sessions(0, CLIENTS, day, habits) for day in range(DAYS[-1] + 2)]
    place, begin, end = (np.concatenate(x) for x in zip(*parts, strict=True))
    order = np.lexsort((begin, place))
    place, begin, end = place[order], begin[order], end[order]
    # Clients far apart on one axis: the running maximum of ends then never crosses clients.
    shift = place * 1e8
    reached = np.maximum.accumulate(end + shift)
    first = np.append(True, (begin + shift)[1:] > reached[:-1])
    last = np.append(np.flatnonzero(first)[1:] - 1, len(place) - 1)
    place, begin, end = place[first], begin[first], (reached - shift)[last]
    inside = (begin >= DAYS[0] * 86400) & (begin < (DAYS[-1] + 1) * 86400)
    return place[inside], begin[inside], end[inside]


def test_share_that_is_never_eligible():
    never = int((sessions.habits(0, CLIENTS).share == 0).sum())
    assert stats.binomtest(never, len(CLIENTS), 0.296).pvalue > 0.01


def test_share_of_time_of_the_others_and_of_all():
    share = sessions.habits(0, CLIENTS).share
    assert stats.kstest(share[share > 0], stats.beta(0.55, 5.18).cdf).pvalue > 0.01
    times = np.arange(DAYS[0] * 86400, (DAYS[-1] + 1) * 86400, 3 * 3600.0)
    measured = np.mean([np.mean(diurnal().until(0, CLIENTS, t) > t) for t in times])
    # The published mean over all is 6.7 %.
    assert abs(measured - 0.067) < 0.004


def test_sessions_a_day(merged):
    able = sessions.habits(0, CLIENTS).share > 0
    a_day = np.bincount(merged[0], minlength=len(CLIENTS))[able] / len(DAYS)
    found = np.quantile(a_day, [0.1, 0.5, 0.9])
    # A week counts in sevenths.
    np.testing.assert_allclose(found, [0.5, 3.0, 9.9], rtol=0.1, atol=1 / 7)


def test_session_lengths(merged):
    minutes = (merged[2] - merged[1]) / 60
    assert abs(np.median(minutes) - 2.3) < 0.35
    assert abs(minutes.mean() - 32) < 3
    assert abs(np.log(minutes).std() - 2.6) < 0.15


def test_hours(merged):
    hour = (merged[1] // 3600 % 24).astype(int)
    weight = np.bincount(hour, minlength=24) / len(hour) * 24
    assert weight[3:6].max() == weight.max() and weight[11:16].min() == weight.min()
    assert abs(weight.max() / weight.min() - 1.46 / 0.69) < 0.2
    hours = np.linspace(0, 24, 2401)
    assert sessions.hour_weights(hours[:-1]).mean() == pytest.approx(1, abs=0.01)


def test_an_answer_depends_on_seed_client_and_time_alone():
    some = np.array([77, 3, 9_999])
    time = 100_000.0
    every = diurnal().until(4, CLIENTS, time)
    np.testing.assert_array_equal(diurnal().until(4, some, time), every[some])
    assert (diurnal().until(5, CLIENTS, time) != every).any()


def test_uniform():
    drawn = uniform(0.3).until(0, CLIENTS, 60.0) > 60
    assert stats.binomtest(int(drawn.sum()), len(CLIENTS), 0.3).pvalue > 0.01
    # Rounds within one second are drawn anew, independently: 9 % are available in both.
    again = uniform(0.3).until(0, CLIENTS, 60.25) > 60.25
    assert stats.binomtest(int((drawn & again).sum()), len(CLIENTS), 0.09).pvalue > 0.01


def test_poisson_by_scipy():
    u = draws.draw(0, 0, np.arange(5000))
    rate = np.geomspace(0.01, 150, 5000)
    np.testing.assert_array_equal(draws.poisson(u, rate), stats.poisson.ppf(u, rate))


def trace(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return str(path)


def test_a_trace_by_hand(tmp_path):
    path = trace(tmp_path, "client,start,end\n1,5,20\n0,0,10\n0,30,40\n2,39,40\n")
    until = from_trace(path, 3).until
    ask = lambda time: until(0, np.array([0, 1, 2]), time)
    np.testing.assert_array_equal(ask(6.0), [10, 20, 6])
    np.testing.assert_array_equal(ask(10.0), [10, 20, 10])
    # Client 0 stays over the end of the trace at 40 s, client 2 does not.
    np.testing.assert_array_equal(ask(39.5), [50, 39.5, 40])
    # After 40 s it begins again.
    np.testing.assert_array_equal(ask(86.0), [90, 100, 86])


def test_sessions_of_a_trace_that_touch_are_one(tmp_path):
    """Also over its end; a client whose sessions cover it is always available."""
    rows = "0,5,10\n0,10,30\n1,0,15\n1,15,40\n2,0,8\n2,20,40\n3,0,40\n"
    found = from_trace(trace(tmp_path, f"client,start,end\n{rows}"), 4)
    ask = lambda time: found.until(0, np.arange(4), time)
    np.testing.assert_array_equal(ask(6.0), [30, np.inf, 8, np.inf])
    np.testing.assert_array_equal(ask(39.0), [39, np.inf, 48, np.inf])
    np.testing.assert_array_equal(ask(40.0), [40, np.inf, 48, np.inf])
    np.testing.assert_array_equal(ask(65.0), [70, np.inf, 88, np.inf])
    assert found.share == pytest.approx((25 + 40 + 28 + 40) / 160)


def test_a_trace_is_read_once_until_it_changes(tmp_path, monkeypatch):
    """The clock and the expected reports need it; each seed of a comparison too."""
    path, reads = trace(tmp_path, "client,start,end\n0,0,10\n1,0,40\n"), []
    read = traces.pd.read_csv
    monkeypatch.setattr(traces.pd, "read_csv", lambda p: (reads.append(p), read(p))[1])
    assert from_trace(path, 2).share == from_trace(path, 2).share == pytest.approx(50 / 80)
    assert len(reads) == 1
    trace(tmp_path, "client,start,end\n0,0,10\n1,0,10\n")
    assert from_trace(path, 2).share == 1 and len(reads) == 2


@pytest.mark.parametrize(
    "text, piece",
    [
        ("client,start\n0,1\n", "found the columns client,start"),
        ("client,start,end\n", "no session"),
        ("client,start,end\n0,0,1\n1,3,\n", "row 2"),
        ("client,start,end\n0,0,1\n7,0,1\n", "row 2 (7,0,1): the client is unknown"),
        ("client,start,end\n0,5,5\n", "row 1 (0,5,5): the start is below 0, or the end"),
        ("client,start,end\n0,0,10\n1,0,1\n0,5,20\n", "row 3: begins before"),
        ("client,start,end\n0,0,1\n", "1 of 2 clients have no session, the first is 1"),
    ],
)
def test_bad_traces(tmp_path, text, piece):
    with pytest.raises(InputError) as caught:
        from_trace(trace(tmp_path, text), 2)
    assert piece in caught.value.line and "--trace=" in caught.value.line


@pytest.mark.parametrize("time", [0.0, 10.0, 86400.0, 3 * 86400 + 12345.6, 5 * 86400 - 1.0])
def test_who_is_there_by_all_sessions_of_two_days(time):
    """The clock finds the same clients, whether it keeps all sessions or looks at few of them."""
    habits, end = sessions.habits(3, CLIENTS), np.full(len(CLIENTS), time)
    for day in (int(time // 86400) - 1, int(time // 86400)):
        place, begin, finish = sessions.sessions(3, CLIENTS, day, habits)
        now = (begin <= time) & (finish > time)
        np.maximum.at(end, place[now], finish[now])
    some = np.arange(0, len(CLIENTS), 3)
    for kept in (0, len(CLIENTS)):
        found = diurnal(kept).until(3, some, time)
        assert 30 < (found > time).sum() < 700
        np.testing.assert_array_equal(np.maximum(found, time), end[some])
