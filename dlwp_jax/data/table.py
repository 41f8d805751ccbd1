"""Tables: delimited text to columns of numbers, categories to one-hot (chapter 4.3)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlwp_jax.data.files import BrokenFile, reading


class Table(NamedTuple):
    """Numbers with a name for each column.

    >>> Table(("ph", "alcohol"), np.array([[3.0, 8.8], [3.3, 9.5]]))["alcohol"].tolist()
    [8.8, 9.5]
    """

    names: tuple[str, ...]
    values: np.ndarray  # [rows columns] float32

    def __getitem__(self, name):  # type: ignore[override]
        if isinstance(name, str):
            return self.values[:, self.column(name)]
        return tuple(self)[name]

    def column(self, name: str) -> int:
        """Where a column stands.

        >>> Table(("ph", "alcohol"), np.zeros((2, 2))).column("alcohol")
        1
        """
        if name not in self.names:
            raise ValueError(f"column {name!r} is not in the table; there are {', '.join(self.names)}.")
        return self.names.index(name)


def read(
    path: str | Path, *, delimiter: str = ",", converters: Mapping[str, Callable[[str], float]] | None = None
) -> Table:
    """Read delimited text with a line of names as numbers (`np.loadtxt` and `csv` in the book).

    Args:
      path: a text file in UTF-8.
      delimiter: what stands between the columns.
      converters: name -> what makes a number of that column's text, such as the day out of a date.

    Returns:
      A `Table` of float32 `[rows columns]`.

    Raises:
      BrokenFile: where a row is longer or shorter than the line of names, a field is empty or no finite number,
        or the text is not UTF-8; row and column are named.

    >>> path = getfixture("tmp_path") / "wine.csv"
    >>> _ = path.write_text("ph;alcohol\\n3.0;8.8\\n3.3;9.5\\n")
    >>> read(path, delimiter=";").values.tolist() == np.float32([[3.0, 8.8], [3.3, 9.5]]).tolist()
    True
    """
    columns = read_columns(path, delimiter=delimiter)
    if unknown := set(converters or {}) - set(columns):
        raise ValueError(f"converters names {', '.join(sorted(unknown))}; {path} has {', '.join(columns)}.")
    for name, convert in (converters or {}).items():
        with reading(path, f"a table with numbers in column {name!r}", ValueError):
            columns[name] = np.array([float(convert(str(field))) for field in columns[name]])
    for name, values in columns.items():
        if values.dtype.kind not in "f":
            row = next(i for i, field in enumerate(values) if _number(field) is None)
            raise BrokenFile(f"{path} has {values[row]!r} in column {name!r}, row {row + 1}, where a number is wanted.")
    return Table(tuple(columns), np.stack(list(columns.values()), axis=1).astype(np.float32))


def _number(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:
        return None


def read_columns(path: str | Path, *, delimiter: str = ",") -> dict[str, np.ndarray]:
    """Read delimited text column by column, numbers as float64 and the rest as strings (LUNA's annotations).

    Returns:
      name -> `[rows]`, float64 where every field is a number, else `str`.

    Raises:
      BrokenFile: as in `read`, except that text is no fault.

    >>> path = getfixture("tmp_path") / "nodules.csv"
    >>> _ = path.write_text("scan,mm\\n1.3.6,5.5\\n1.3.7,4\\n")
    >>> read_columns(path)
    {'scan': array(['1.3.6', '1.3.7'], dtype='<U5'), 'mm': array([5.5, 4. ])}
    """
    import pandas

    with reading(path, "delimited text", ValueError, pandas.errors.ParserError, pandas.errors.EmptyDataError):
        text = Path(path).read_text("utf-8-sig")
        _check_widths(text, delimiter, path)
        frame = pandas.read_csv(
            path, sep=delimiter, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False
        )
    names = [str(name) for name in frame.columns]
    if not len(frame) or any(name.startswith("Unnamed: ") for name in names):
        raise BrokenFile(f"{path} has {len(frame)} rows under the names {names}; both rows and names are needed.")
    return {name: _column(frame.iloc[:, i], name, path) for i, name in enumerate(names)}


def _check_widths(text: str, delimiter: str, path) -> None:
    """pandas fills short rows with nothing and shifts long ones into an index: neither is wanted."""
    import csv

    width = 0
    for i, row in enumerate(csv.reader(text.splitlines(), delimiter=delimiter)):
        width = width or len(row)
        if row and len(row) != width:
            raise BrokenFile(f"{path} has {len(row)} fields in line {i + 1} and {width} names.")
    return


def _column(fields, name: str, path) -> np.ndarray:
    import pandas

    empty = np.flatnonzero(fields.str.strip() == "")
    if len(empty):
        raise BrokenFile(f"{path} has nothing in column {name!r}, row {empty[0] + 1} ({len(empty)} such rows).")
    numbers = pandas.to_numeric(fields, errors="coerce").to_numpy(np.float64)
    if np.isfinite(numbers).all():
        return numbers
    return fields.to_numpy(str)


def categories(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Number the different values in sorted order (pandas' `factorize`, sorted).

    Returns:
      `[n]` codes from 0, and the names by code: `names[codes]` gives the values back.

    >>> codes, names = categories(["red", "white", "red"])
    >>> codes.tolist(), names.tolist()
    ([0, 1, 0], ['red', 'white'])
    """
    names, codes = np.unique(np.asarray(values), return_inverse=True)
    return codes.reshape(np.shape(values)), names


def one_hot(codes: Any, classes: int | None = None) -> np.ndarray:
    """Numbers of classes to rows of zeros with a single one (chapter 4.3.4; `torch.nn.functional.one_hot`).

    The inverse is `argmax(axis=-1)`.

    Args:
      codes: `[...]` whole numbers from 0, of any integer or float type.
      classes: how many there are; None takes the largest code plus 1.

    Returns:
      `[... classes]` float32.

    Raises:
      ValueError: where a code is no whole number or not in 0 .. classes - 1. (`jax.nn.one_hot` gives a row
        without a one there.)

    >>> one_hot([1, 0, 3]).astype(int).tolist()
    [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    """
    codes = np.asarray(codes)
    whole = codes.astype(np.int64)
    if codes.size and ((whole != codes).any() or whole.min() < 0):
        raise ValueError("codes must be whole numbers from 0; use categories() to number other values.")
    largest = int(whole.max()) if codes.size else -1
    classes = largest + 1 if classes is None else classes
    if largest >= classes:
        raise ValueError(f"codes go up to {largest}; classes={classes} leaves no column for it, give {largest + 1}.")
    rows = np.zeros((*codes.shape, classes), np.float32)
    np.put_along_axis(rows, whole[..., None], 1.0, axis=-1)
    return rows


class Agreement(NamedTuple):
    """How well a yes-or-no guess meets the truth (the end of chapter 4.3).

    `precision` is the share of the guesses that are true, `recall` the share of the truth that is guessed.
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
    predicted, actual = np.asarray(predicted), np.asarray(actual)
    if predicted.shape != actual.shape or not predicted.dtype == actual.dtype == np.bool_:
        raise ValueError(
            f"masks of one shape are needed; these are {predicted.shape} and {actual.shape}, {predicted.dtype}."
        )
    counts = (int(mask.sum()) for mask in (predicted, actual, predicted & actual))
    said, true, both = counts
    return Agreement(said, true, both, both / said if said else 0.0, both / true if true else 0.0)
