"""A whole run's documents, made up: a small data set with cold targets, three views."""

import copy

import numpy as np
import pytest

from fedvlr_jax.report import render_report

ACTIVITY = {"0-10": 150, "11-20": 30, "21-50": 14, "51-100": 7, "101-200": 2, "201-500": 1}


def scores(hr: float, ndcg: float, users: int) -> dict:
    half = 1.96 * 100 * (max(hr * (100 - hr), 1) / 1e4 / users) ** 0.5
    return {
        "users": users,
        "hr@50": hr,
        "ndcg@50": ndcg,
        "ci95": {
            "hr@50": [max(0.0, hr - half), hr + half],
            "ndcg@50": [max(0.0, ndcg - half / 2), ndcg + half / 2],
        },
    }


def part(hr: tuple, ndcg: tuple) -> dict:
    """A summary of 204 users, 116 of them warm and 88 cold; numbers of all, warm, cold."""
    summary = scores(hr[0], ndcg[0], 204)
    summary["warm"] = scores(hr[1], ndcg[1], 116)
    summary["cold"] = scores(hr[2], ndcg[2], 88)
    summary["activity"] = {
        name: {"users": n, "hr@50": 20 + 7.0 * i, "ndcg@50": 8 + 3.0 * i}
        for i, (name, n) in enumerate(ACTIVITY.items())
    }
    summary["activity"]["501+"] = {"users": 0}
    summary["worst_decile"] = {"users": 21, "hr@50": 0.0, "ndcg@50": 0.0}
    return summary


def _baselines() -> dict:
    numbers = {
        "random": ((8.9, 9.1, 8.7), (2.3, 2.4, 2.2)),
        "popularity": ((19.2, 33.6, 0.1), (5.5, 9.7, 0.1)),
        "least popular first": ((44.1, 2.0, 99.6), (13.0, 0.5, 29.4)),
        "item id": ((9.8, 10.3, 9.1), (3.0, 3.1, 2.9)),
        "unseen items first": ((46.0, 5.2, 100.0), (17.0, 1.4, 37.5)),
        "item-kNN": ((40.7, 71.6, 0.0), (18.6, 32.7, 0.0)),
        "content-kNN text": ((30.4, 28.4, 33.0), (11.8, 11.2, 12.6)),
        "content-kNN image": ((27.9, 27.6, 28.4), (9.6, 9.5, 9.7)),
        "EASE": ((49.9, 74.1, 18.0), (20.2, 33.5, 2.7)),
    }
    found = {name: part(*values) | {"valid": part(*values)} for name, values in numbers.items()}
    found["EASE"]["l2"] = 10.0
    found["local-only"] = {"skipped": "fusion=none has nothing to train locally"}
    return found


def _users(generator: np.random.Generator) -> dict:
    length = np.repeat([6, 15, 30, 70, 150, 251], list(ACTIVITY.values()))
    planted = generator.dirichlet([1.2, 1.0, 0.8], 204)
    noisy = planted**0.7 * np.exp(0.45 * generator.standard_normal((204, 3)))
    hit = np.where(generator.random(204) < 0.464, 1.0, 0.0)
    return {
        "user_id": np.array([f"u{n}" for n in range(204)]),
        "history_length": length,
        "router_weights": (noisy / noisy.sum(axis=1, keepdims=True)).astype(np.float32),
        "planted": planted.astype(np.float32),
        "hr@50": hit,
        "ndcg@50": hit * generator.random(204),
    }


def _metrics() -> list[dict]:
    lines = []
    for round_ in range(5, 105, 5):
        ndcg = 21 * (1 - np.exp(-round_ / 25)) - 0.0006 * max(0, round_ - 60) ** 2
        valid = {"users": 204, "hr@50": 2.2 * ndcg + 2, "ndcg@50": float(ndcg)}
        valid["warm"] = {"users": 150, "hr@50": 3 * ndcg, "ndcg@50": 1.3 * ndcg}
        lines.append(
            {
                "round": round_,
                "loss": 0.25 + 0.44 * float(np.exp(-round_ / 20)),
                "participants": 204,
                "valid": valid,
                "best_round": min(round_, 75),
            }
        )
    return lines


def _config() -> dict:
    groups = {
        "data": {"dataset": "KU", "data_root": "data", "split": "auto", "duplicates": "merge"},
        "model": {"backbone": "fcf", "fusion": "bilevel", "views": "id,text,image", "width": 64},
        "federation": {"rounds": 200, "cohort": 0, "client_dropout": 0.0, "local_epochs": 5}
        | {"negatives": "expected", "server_lr_items": 0.03, "server_lr_fusion": 0.001},
        "privacy": {"clip_norm": 0.0, "noise_multiplier": 0.0},
        "evaluation": {"protocol": "paper", "eval_every": 5, "patience": 10, "baselines": True},
        "run": {"seed": 0},
    }
    flags = {flag: value for group in groups.values() for flag, value in group.items()}
    return {
        "flags": flags,
        "groups": groups,
        "defaults": flags | {"dataset": "synthetic", "rounds": 100, "protocol": "strict"},
        "versions": {"python": "3.11.7", "jax": "0.10.2", "numpy": "2.4.6"},
        "commit": "0ffd74d",
        "device": "cpu (2 cores)",
        "dataset": {
            "name": "KU",
            "fingerprint": "3f9a0c51d2e84b77",
            "num_users": 204,
            "num_items": 560,
            "interactions": {"train": 3080, "valid": 204, "test": 204},
            "features": {"text": 512, "image": 512},
            "split": "predefined",
            "notes": ["16 of 560 items never occur in train.", "12 repeated rows were merged."],
        },
        "command": "python -m experiments.train --dataset=KU --rounds=200 --protocol=paper",
    }


def made_up_run() -> dict:
    """{"config", "summary", "metrics", "users"}: the arguments of `render_report`."""
    test = part((46.4, 62.1, 25.7), (17.1, 27.4, 3.5))
    summary = {
        "dataset": "KU",
        "protocol": "paper",
        "backbone": "fcf",
        "fusion": "bilevel",
        "seed": 0,
        "selected_round": 75,
        "rounds_run": 100,
        "stopped": "patience",
        "valid": copy.deepcopy(test),
        "test": test,
        "baselines": _baselines(),
        "views": ["id", "text", "image"],
        "router": {"mean": [0.41, 0.33, 0.26]},
        "planted_spearman": {"id": 0.81, "text": 0.78, "image": 0.74},
        "timing": {"first_block_s": 4.2, "round_s_median": 0.0128, "eval_s_median": 0.034}
        | {"total_s": 9.6},
        "peak_rss_mb": 812.4,
    }
    users = _users(np.random.default_rng(0))
    return {"config": _config(), "summary": summary, "metrics": _metrics(), "users": users}


@pytest.fixture
def run() -> dict:
    """A made-up run that the test may change."""
    return made_up_run()


@pytest.fixture
def words_only(run) -> dict:
    """The same run without most of what figures are drawn from, for speed."""
    return run | {"metrics": [], "users": {}}


@pytest.fixture(scope="session")
def report() -> str:
    """The page of the made-up run."""
    return render_report(**made_up_run())
