"""Subjects: `dlwp_jax.diagnose`."""

import math

import numpy as np
from hypothesis import strategies as st

from dlwp_jax import diagnose
from tests.properties.data import numbers
from tests.properties.hostile import recipes
from tests.properties.subject import subject

CURVES = st.lists(
    st.floats(-1e3, 1e3) | st.sampled_from([0.0, 1e-300, 1e30, math.inf]),
    min_size=1,
    max_size=40,
)


@st.composite
def histories(draw):
    values = draw(CURVES)
    names = draw(
        st.sampled_from(
            [
                ["train/loss"],
                ["val/loss"],
                ["train/loss", "val/loss"],
                ["train/accuracy", "val/accuracy"],
            ]
        )
    )
    return {name: draw(st.permutations(values)) for name in names}


WRONG = st.sampled_from(
    [
        *(
            {"train/loss": []},
            {"train/loss": [1.0], "val/loss": [1.0, 2.0]},
            {"loss": [1.0]},
            {"train/loss": 1.0},
        ),
        *(
            {"train/loss": ["a"]},
            {"train/loss": [[1.0]]},
            {"train/loss": [1j]},
            {1: [1.0]},
            {"train/loss": [math.nan]},
        ),
        *(
            {"train/loss": [None, 1.0]},
            {"train/loss": [10**400]},
            {None: [1.0], "train/loss": [1.0]},
        ),
    ]
)
BASELINES = st.sampled_from(
    [None, 1.0, 0, {"trivial": 2.0, "reachable": 0.5}, {"reachable": 0.1}]
)


def column(values):
    """As runs.history writes it, with None for NaN."""
    if isinstance(values, list):
        values = [math.nan if value is None else value for value in values]
    return numbers(values, "biuf").astype(float)


def judged(history, baseline):
    known(baseline)
    columns = [column(values) for values in history.values()]
    if (
        not columns
        or any(column.ndim != 1 for column in columns)
        or len({len(column) for column in columns}) != 1
    ):
        raise ValueError("no history")
    tried = [
        c for n, c in history.items() if isinstance(n, str) and n.startswith(("train/", "val/"))
    ]
    if not tried or np.isnan(np.array(tried, float)).all():
        raise ValueError("nothing to judge")
    return history


def has_verdict(found, history):
    assert 1 <= len(found.candidates) <= 3
    assert set(found.candidates) <= set(diagnose.VERDICTS)
    assert bool(found.decides) == (len(found.candidates) > 1)
    assert found.advice
    assert all(isinstance(line, str) for line in (*found.advice, str(found)))
    for name, value in found.evidence.items():
        assert not math.isnan(value), name
        assert name.endswith("slope_error") or math.isfinite(value), (name, value)
    if any(math.isinf(v) for name in ("train/loss", "val/loss") for v in history.get(name, ())):
        assert found.verdict == "diverged"


subject(
    "diagnose.diagnose",
    lambda history, baseline: diagnose.diagnose(history, baseline=baseline),
    takes={"history": histories(), "baseline": BASELINES},
    reference=judged,
    agrees=has_verdict,
    near={
        "history": WRONG,
        "baseline": st.sampled_from([{"best": 1.0}, {"trivial": math.nan}, {"trivial": "x"}]),
    },
    examples=(60, 600),
)


def known(value):
    parts = value if isinstance(value, dict) else {"trivial": value}
    if set(parts) - {"trivial", "reachable"}:
        raise ValueError("unknown")
    for part in parts.values():
        if part is not None and (
            np.ndim(part) or numbers(part, "iuf").size != 1 or not np.isfinite(float(part))
        ):
            raise ValueError("no number")
    return [
        None if parts.get(name) is None else float(parts[name])
        for name in ("trivial", "reachable")
    ]


subject(
    "diagnose.known_losses",
    diagnose.known_losses,
    takes={"value": BASELINES},
    reference=known,
    words=("baseline",),
    near={
        "value": st.sampled_from(recipes("{'best': 1}", "{1: 2, 'x': 3}", "{'trivial': None}"))
    },
)
