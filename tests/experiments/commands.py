"""Small sizes for commands that tests run, and what a refusal looks like."""

SMALL = (
    "--synthetic_users=60",
    "--synthetic_items=80",
    "--width=8",
    "--rounds=6",
    "--eval_every=2",
)


def refused(result):
    """One line on stderr, status 2, no traceback; returns the line."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]
