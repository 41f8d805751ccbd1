"""A public function with what it takes, and an independent opinion on what it should give."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from hypothesis import note
from hypothesis import strategies as st

from tests.properties import judge
from tests.properties.hostile import anything, fresh

Arguments = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a public function is tried with.

    Attributes:
      name: "module.function", as the completeness test counts it.
      call: takes the drawn arguments by name.
      takes: argument -> values that must give a result; `where` leaves out combinations that
        must not.
      reference: the same arguments -> what is right, by NumPy, torch or Python; it raises if
        they are nonsense.
      agrees: (result, reference's) -> None, or an AssertionError.
      near: argument -> values that are wrong by little, tried as often as all others.
      right: whether a valid call succeeds (one without a file to read cannot).
      fixed: arguments that are left alone (a loss function; what the caller's own mistake would
        break).
      examples: (fast, deep), how often it is tried with valid and with hostile arguments.
    """

    name: str
    call: Callable[..., Any]
    takes: Mapping[str, st.SearchStrategy]
    reference: Callable[..., Any]
    agrees: Callable[[Any, Any], None]
    near: Mapping[str, st.SearchStrategy] = dataclasses.field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    right: bool = True
    where: Callable[[Arguments], bool] = lambda arguments: True
    examples: tuple[int, int] = (6, 60)

    @property
    def valid(self) -> st.SearchStrategy[Arguments]:
        """Arguments that must give a result."""
        return st.fixed_dictionaries(dict(self.takes)).filter(self.where)

    @property
    def replaceable(self) -> list[str]:
        """The arguments that hostile values may stand in for."""
        return [name for name in self.takes if name not in self.fixed]

    @property
    def room(self) -> str:
        """The package that it counts for, such as `storage`."""
        return self.name.split(".")[0]


SUBJECTS: dict[str, Subject] = {}


def subject(
    name: str,
    call: Callable,
    *,
    takes: Mapping[str, st.SearchStrategy],
    reference: Callable,
    **options: Any,
) -> None:
    """Register a public function."""
    assert name not in SUBJECTS, name
    options.pop("words", None)  # what errors speak of is no longer looked at
    SUBJECTS[name] = Subject(
        name, call, takes, reference, options.pop("agrees", same), **options
    )


def try_valid(one: Subject, arguments: Arguments) -> None:
    """A call that must succeed."""
    judge.counts[one.name, "tried"] += 1
    kind, result = judge.outcome(one.name, lambda: one.call(**fresh(arguments)))
    if kind == "error":
        raise judge.Fault(f"{one.name} refuses what is right: {result}") from result
    one.agrees(result, one.reference(**fresh(arguments)))
    judge.counts[one.name, "right"] += 1


def try_hostile(one: Subject, arguments: Arguments) -> None:
    """A call that must be refused by an error, or be right all the same."""
    judge.counts[one.name, "tried"] += 1
    kind, result = judge.outcome(one.name, lambda: one.call(**fresh(arguments)))
    if kind == "error":
        note(f"refused: {type(result).__name__}: {result}")
        judge.counts[one.name, "refused"] += 1
        return
    try:
        expected = one.reference(**fresh(arguments))
    except Exception as error:
        raise judge.Fault(
            f"{one.name} took what the reference refuses ({error!r}) and gave {result!r}"
        ) from error
    one.agrees(result, expected)
    judge.counts[one.name, "right"] += 1


@st.composite
def hostile(draw, one: Subject) -> Arguments:
    """Valid arguments, of which one or two are replaced."""
    arguments = draw(one.valid)
    for name in draw(
        st.lists(st.sampled_from(one.replaceable), min_size=1, max_size=2, unique=True)
    ):
        near = one.near.get(name)
        arguments = arguments | {
            name: draw(anything if near is None else st.one_of(near, anything))
        }
    return arguments


def same(result: Any, expected: Any, *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Equal structure, shape and values, floats to rounding."""
    if isinstance(expected, dict):
        assert isinstance(result, dict), result
        assert list(map(str, result)) == list(map(str, expected)), (result, expected)
        for key in expected:
            same(result[key], expected[key], rtol=rtol, atol=atol)
    elif isinstance(expected, tuple | list):
        assert isinstance(result, tuple | list), result
        assert len(result) == len(expected), (result, expected)
        for mine, other in zip(result, expected, strict=True):
            same(mine, other, rtol=rtol, atol=atol)
    elif isinstance(expected, np.ndarray | np.generic | jax.Array | float | complex):
        result, expected = np.asarray(result), np.asarray(expected)
        assert result.shape == expected.shape, (result.shape, expected.shape)
        if result.dtype.kind in "fcV" or expected.dtype.kind in "fcV":
            wide = (
                np.complex128 if "c" in result.dtype.kind + expected.dtype.kind else np.float64
            )
            np.testing.assert_allclose(
                result.astype(wide), expected.astype(wide), rtol=rtol, atol=atol
            )
        else:
            np.testing.assert_array_equal(result, expected)
    else:
        assert result == expected, (result, expected)
