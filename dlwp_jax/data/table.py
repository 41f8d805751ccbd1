"""Tables: delimited text to columns of numbers, categories to one-hot (chapter 4.3)."""

import csv
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlwp_jax import checks
from dlwp_jax.data.files import BrokenFile, reading


class Table(NamedTuple):
    """Numbers with a name for each column.

    >>> Table(("ph", "alcohol"), np.array([[3.0, 8.8], [3.3, 9.5]]))["alcohol"].tolist()
    [8.8, 9.5]
    """

    names: tuple[str, ...]
    values: np.ndarray  # [rows columns] float32

    def __getitem__(self, name: Any) -> Any:
        if checks.as_int(name) in (0, 1) or isinstance(
            name, slice
        ):  # a tuple's own: names, values
            return tuple(self)[name]
        return self.values[:, self.column(name)]

    def column(self, name: str) -> int:
        """Where a column stands.

        >>> Table(("ph", "alcohol"), np.zeros((2, 2))).column("alcohol")
        1
        """
        if not isinstance(name, str) or name not in self.names:
            told = repr(name) if isinstance(name, str) else checks.describe(name)
            raise ValueError(
                f"column {told} is not in the table; there are {', '.join(map(str, self.names))}."
            )
        return self.names.index(name)


def read(
    path: str | Path,
    *,
    delimiter: str = ",",
    converters: Mapping[str, Callable[[str], float]] | None = None,
) -> Table:
    """Read delimited text with a line of names as numbers (`np.loadtxt` and `csv` in the book).

    Args:
      path: a text file in UTF-8.
      delimiter: what stands between the columns.
      converters: name -> what makes a number of that column's text, such as the day out of a
        date.

    Returns:
      A `Table` of float32 `[rows columns]`.

    Raises:
      BrokenFile: where a row is longer or shorter than the line of names, a field is empty or
        no finite number, or the text is not UTF-8; row and column are named.

    >>> path = getfixture("tmp_path") / "wine.csv"
    >>> _ = path.write_text("ph;alcohol\\n3.0;8.8\\n3.3;9.5\\n")
    >>> read(path, delimiter=";").values.tolist() == np.float32([[3.0, 8.8], [3.3, 9.5]]).tolist()
    True
    """
    if not isinstance(converters, Mapping | None) or not all(
        map(callable, (converters or {}).values())
    ):
        raise TypeError(
            f"converters must be a dict of functions by column; got {checks.describe(converters)}."
        )
    columns = read_columns(path, delimiter=delimiter)
    if unknown := set(converters or {}) - set(columns):
        raise ValueError(
            f"converters names {', '.join(sorted(map(str, unknown)))}; {path} has {', '.join(columns)}."
        )
    for name, convert in (converters or {}).items():
        with reading(path, f"a table with numbers in column {name!r}", ValueError):
            columns[name] = np.array([float(convert(str(field))) for field in columns[name]])
        if (wrong := ~np.isfinite(columns[name])).any():
            row = int(np.argmax(wrong))
            raise BrokenFile(
                f"{path} has no finite number in column {name!r}, row {row + 1}, after its converter."
            )
    for name, values in columns.items():
        if values.dtype != np.float64:
            row = next(i for i, field in enumerate(values) if not _is_number(field))
            raise BrokenFile(
                f"{path} has {str(values[row])!r} in column {name!r}, row {row + 1}, where a number is wanted."
            )
        if (large := np.abs(values) > np.finfo(np.float32).max).any():
            row = int(np.argmax(large))
            raise BrokenFile(
                f"{path} has {values[row]:g} in column {name!r}, row {row + 1}, which is too large for float32."
            )
    return Table(tuple(columns), np.stack(list(columns.values()), axis=1).astype(np.float32))


def _is_number(field: str) -> bool:
    try:
        return math.isfinite(float(field))
    except ValueError:
        return False


def read_columns(path: str | Path, *, delimiter: str = ",") -> dict[str, np.ndarray]:
    """Read delimited text column by column, numbers as float64 and the rest as strings (LUNA's
    annotations).

    Returns:
      name -> `[rows]`, float64 where every field is a number, else `str`.

    Raises:
      BrokenFile: as in `read`, except that text is no fault.

    >>> path = getfixture("tmp_path") / "nodules.csv"
    >>> _ = path.write_text("scan,mm\\n1.3.6,5.5\\n1.3.7,4\\n")
    >>> read_columns(path)
    {'scan': array(['1.3.6', '1.3.7'], dtype='<U5'), 'mm': array([5.5, 4. ])}
    """
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise ValueError(
            f"delimiter must be one character that is no quote or line end; got {delimiter!r}."
        )
    with reading(path, "delimited text", ValueError, csv.Error):
        text = Path(path).read_text("utf-8-sig")
        # strict: a quotation mark out of place is an error. The csv module is used and not
        # pandas, which fills short
        # rows with nothing and shifts long ones into an index.
        rows = [
            row
            for row in csv.reader(
                io.StringIO(text, newline=""), delimiter=delimiter, strict=True
            )
            if row
        ]
    if (
        len(rows) < 2
        or not all(name.strip() for name in rows[0])
        or len(set(rows[0])) < len(rows[0])
    ):
        raise BrokenFile(
            f"{path} has {max(len(rows) - 1, 0)} rows under the names {str(rows[:1])[:80]}; rows and names are needed."
        )
    names, *rows = rows
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise BrokenFile(
                f"{path} has {len(row)} fields in row {i + 1} and {len(names)} names."
            )
    return {
        name: _column(fields, name, path)
        for name, fields in zip(names, zip(*rows, strict=True), strict=True)
    }


def _column(fields: tuple[str, ...], name: str, path) -> np.ndarray:
    for i, field in enumerate(fields):
        if not field.strip():
            raise BrokenFile(f"{path} has nothing in column {name!r}, row {i + 1}.")
        if "\0" in field:
            raise BrokenFile(f"{path} has a NUL byte in column {name!r}, row {i + 1}.")
    text = np.array(fields)
    try:
        numbers = text.astype(np.float64)
    except ValueError:
        return text
    return numbers if np.isfinite(numbers).all() else text


def categories(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Number the different values in sorted order (pandas' `factorize`, sorted).

    Returns:
      `[n]` codes from 0, and the names by code: `names[codes]` gives the values back.

    >>> codes, names = categories(["red", "white", "red"])
    >>> codes.tolist(), names.tolist()
    ([0, 1, 0], ['red', 'white'])
    """
    array = checks.names_of(values, "values")
    names, codes = np.unique(array, return_inverse=True)
    return codes.reshape(array.shape), names


def one_hot(codes: Any, classes: int | None = None) -> np.ndarray:
    """Numbers of classes to rows of zeros with a single one (chapter 4.3.4;
    `torch.nn.functional.one_hot`).

    The inverse is `argmax(axis=-1)`.

    Args:
      codes: `[...]` whole numbers from 0, of any integer or float type.
      classes: how many there are; None takes the largest code plus 1.

    Returns:
      `[... classes]` float32.

    Raises:
      ValueError: where a code is no whole number or not in 0 .. classes - 1. (`jax.nn.one_hot`
        gives a row without a one there.)

    >>> one_hot([1, 0, 3]).astype(int).tolist()
    [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    """
    codes = checks.real_on_host(codes, "codes")
    with np.errstate(
        invalid="ignore"
    ):  # NaN and infinity: they differ from whatever integer they become
        whole = codes.astype(np.int64)
    if codes.size and ((whole != codes).any() or whole.min() < 0):
        raise ValueError(
            "codes must be whole numbers from 0; use categories() to number other values."
        )
    largest = int(whole.max()) if codes.size else -1
    classes = largest + 1 if classes is None else checks.whole(classes, "classes", 0)
    if largest >= classes:
        raise ValueError(
            f"codes go up to {largest}; classes={classes} leaves no column for it, give {largest + 1}."
        )
    rows = np.zeros((*codes.shape, classes), np.float32)
    np.put_along_axis(rows, whole[..., None], 1.0, axis=-1)
    return rows


class Agreement(NamedTuple):
    """How well a yes-or-no guess meets the truth (the end of chapter 4.3).

    `precision` is the share of the guesses that are true, `recall` the share of the truth that
    is guessed.
    """

    predicted: int
    actual: int
    matches: int
    precision: float
    recall: float


def agreement(predicted: Any, actual: Any) -> Agreement:
    """Count how often two masks say yes, and both do.

    >>> agreement([True, True, False, False], [True, False, True, False])
    Agreement(predicted=2, actual=2, matches=1, precision=0.5, recall=0.5)
    """
    predicted, actual = checks.on_host(predicted, "predicted"), checks.on_host(actual, "actual")
    if predicted.shape != actual.shape or not predicted.dtype == actual.dtype == np.bool_:
        raise ValueError(
            f"predicted and actual must be masks of one shape; got {predicted.shape} of {predicted.dtype} and "
            f"{actual.shape} of {actual.dtype}."
        )
    counts = (int(mask.sum()) for mask in (predicted, actual, predicted & actual))
    said, true, both = counts
    return Agreement(
        said, true, both, both / said if said else 0.0, both / true if true else 0.0
    )
