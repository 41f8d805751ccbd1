"""Tables: delimited text to columns of numbers, categories to one-hot rows (chapter 4.3)."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlwp_jax import checks
from dlwp_jax.data.files import BrokenFile, reading

Converters = Mapping[str, Callable[[str], Any]]

# The characters of plain numbers. Python's float() also takes "1_2" for 12, and the digits of
# other scripts.
NUMERIC = frozenset("0123456789+-.eE \t")
# Whole numbers that are written with leading zeros, such as "007", are names.
PADDED = re.compile(r"\s*[+-]?0\d+\s*", re.ASCII)
WHOLE = re.compile(r"\s*[+-]?\d+(\.0*)?\s*", re.ASCII)
AFTER = " after its converter"
EXACT = 2**53  # float64 holds every whole number up to here


class Table(NamedTuple):
    """Numbers with a name for each column.

    >>> Table(("ph", "alcohol"), np.array([[3.0, 8.8], [3.3, 9.5]]))["alcohol"].tolist()
    [8.8, 9.5]
    """

    names: tuple[str, ...]
    values: np.ndarray  # [rows columns]

    def __getitem__(self, name: Any) -> Any:
        # The indices 0 and 1 are those of any named tuple: the names, and the values.
        if checks.as_int(name) in (0, 1) or isinstance(name, slice):
            return tuple(self)[name]
        return self.values[:, self.column(name)]

    def column(self, name: str) -> int:
        """The index of a column.

        >>> Table(("ph", "alcohol"), np.zeros((2, 2))).column("alcohol")
        1
        """
        if not isinstance(name, str) or name not in self.names:
            shown = repr(name) if isinstance(name, str) else checks.describe(name)
            raise ValueError(
                f"column {shown} is not in the table; there are {', '.join(self.names)}."
            )
        return self.names.index(name)


def read(
    path: str | Path,
    *,
    delimiter: str = ",",
    converters: Converters | None = None,
    names: Sequence[str] | None = None,
    header: bool | None = None,
    dtype: Any = np.float32,
) -> Table:
    """Read delimited text as numbers (`np.loadtxt` and `csv` in the book).

    Args:
      path: a text file in UTF-8.
      delimiter: the character between two columns.
      converters: column name -> function from the text of a field to a number, such as the day
        of a date. A converter is also called for the empty fields of its column.
      names: one name for each column. If given, the file has no line of names, unless `header`
        says so.
      header: whether the first line holds names. None expects a line of names if `names` is not
        given, and refuses a first line with numbers in it. Without names the columns are called
        "0", "1", ...
      dtype: float32 or float64.

    Returns:
      A `Table` with values `[rows columns]` of that dtype.

    Raises:
      BrokenFile: if a row is longer or shorter than the line of names, if a field is empty or
        no finite number, if the dtype would round large numbers to others, or if the text is
        not UTF-8. The message names row and column.

    >>> path = getfixture("tmp_path") / "wine.csv"
    >>> _ = path.write_text("ph;alcohol\\n3.0;8.8\\n3.3;9.5\\n")
    >>> read(path, delimiter=";")["alcohol"].tolist() == np.float32([8.8, 9.5]).tolist()
    True
    >>> _ = path.write_text("3.0,8.8\\n3.3,\\n")
    >>> alcohol = {"alcohol": lambda field: float(field) if field else -1.0}
    >>> read(path, names=["ph", "alcohol"], converters=alcohol)["alcohol"].round(1).tolist()
    [8.800000190734863, -1.0]
    """
    kind: np.dtype = np.dtype(dtype)
    if kind.name not in ("float32", "float64"):
        raise TypeError(f"dtype must be float32 or float64; got {kind}.")
    columns = read_columns(
        path, delimiter=delimiter, converters=converters, names=names, header=header
    )
    converted = set(converters or {})
    numbers = [
        _as_numbers(values, name, path, kind, AFTER if name in converted else "")
        for name, values in columns.items()
    ]
    return Table(tuple(columns), np.stack(numbers, axis=1))


def _as_numbers(
    values: np.ndarray, name: str, path: str | Path, dtype: np.dtype, when: str
) -> np.ndarray:
    """A column in `dtype`, or an error that names the row that would be another number."""

    def refuse(wrong: np.ndarray, why: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            shown = values.tolist()[row]
            raise BrokenFile(f"{path} has {shown!r} in column {name!r}, row {row + 1}, {why}")

    if values.dtype.kind not in "biuf":
        wrong = np.array([_plain_number(str(field)) is None for field in values])
        refuse(wrong, f"which is no finite number{when}.")
        long = np.array([not _is_exact(str(field)) for field in values])
        refuse(long, "which is too long for a number; `read_columns` keeps it.")
    numbers = values.astype(np.float64)
    refuse(~np.isfinite(numbers), f"which is no finite number{when}.")
    if values.dtype.kind in "iu":
        rounded = numbers.astype(object) != values.astype(object)
        refuse(rounded, "which float64 rounds to another number; `read_columns` keeps it.")
    refuse(np.abs(numbers) > np.finfo(dtype).max, f"which is too large for {dtype}.")
    out = numbers.astype(dtype)
    cure = f"which {dtype} rounds: subtract a start in a converter, or use dtype=np.float64."
    # float32 holds whole numbers up to 2**24; int64 ends at 2**63; larger ones are measured.
    counted = (np.abs(numbers) >= 2**24) & (np.abs(numbers) < 2**63)
    refuse((out != numbers) & counted, cure)
    steps, kept = np.diff(numbers), np.diff(out)
    if (steps > 0).all() or (steps < 0).all():  # a clock: no two times may become one
        refuse(np.append(kept == 0, False), cure)
    return out


def _plain_number(field: str) -> float | None:
    """The finite number that a field holds; None if it holds another thing."""
    if not NUMERIC.issuperset(field):
        return None
    try:
        number = float(field)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _is_exact(field: str) -> bool:
    """Whether float64 holds a whole number as it is written."""
    return not WHOLE.fullmatch(field) or Decimal(float(field)) == Decimal(field.strip())


def read_columns(
    path: str | Path,
    *,
    delimiter: str = ",",
    converters: Converters | None = None,
    names: Sequence[str] | None = None,
    header: bool | None = None,
) -> dict[str, np.ndarray]:
    """Read delimited text column by column: numbers, or else strings (LUNA's annotations).

    A column is text if one of its fields is no plain number, such as "1_2", or is a whole
    number with leading zeros, such as "007".

    Args:
      path: a text file in UTF-8.
      delimiter: the character between two columns.
      converters: column name -> function from the text of a field to its value; it is also
        called for empty fields.
      names: as in `read`.
      header: as in `read`.

    Returns:
      name -> `[rows]`: float64 if every field is a number; int64 if they are whole numbers that
      float64 would round; else `str`.

    Raises:
      BrokenFile: as in `read`, except that text is accepted.

    >>> path = getfixture("tmp_path") / "nodules.csv"
    >>> _ = path.write_text("scan,mm\\n1.3.6,5.5\\n1.3.7,4\\n")
    >>> read_columns(path)
    {'scan': array(['1.3.6', '1.3.7'], dtype='<U5'), 'mm': array([5.5, 4. ])}
    """
    converters = _checked_converters(converters)
    fields = _fields(path, delimiter, names, header)
    if unknown := set(converters) - set(fields):
        raise ValueError(
            f"converters names {', '.join(sorted(map(str, unknown)))}; {path} has "
            f"{', '.join(fields)}."
        )
    columns = {}
    for name, texts in fields.items():
        if name in converters:
            with reading(path, f"a table with numbers in column {name!r}", ValueError):
                columns[name] = np.array([converters[name](field) for field in texts])
        else:
            columns[name] = _column(texts, name, path)
    return columns


def _checked_converters(converters: Converters | None) -> Converters:
    if converters is None:
        return {}
    if not isinstance(converters, Mapping) or not all(map(callable, converters.values())):
        raise TypeError(
            "converters must be a dict of functions by column; got "
            f"{checks.describe(converters)}."
        )
    return converters


def _fields(
    path: str | Path, delimiter: str, names: Sequence[str] | None, header: bool | None
) -> dict[str, tuple[str, ...]]:
    """The text of every column by its name."""
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise ValueError(
            f"delimiter must be one character, no quote or line end; got {delimiter!r}."
        )
    with reading(path, "delimited text", ValueError, csv.Error):
        text = io.StringIO(Path(path).read_text("utf-8-sig"), newline="")
        # The csv module and not pandas, which fills short rows with nothing and makes an index
        # of long ones. strict=True refuses a quotation mark out of place.
        rows = [row for row in csv.reader(text, delimiter=delimiter, strict=True) if row]
    if names is not None:
        names = _checked_names(names)
    has_header = header if header is not None else names is None
    first, rows = (rows[:1], rows[1:]) if has_header else ([], rows)
    if header is None and first and any(map(_is_data, first[0])):
        raise BrokenFile(
            f"{path} begins with {str(first[0])[:80]}, which holds numbers; give names=[...] "
            "if the file has no line of names, or header=True if this is one."
        )
    if names is None:
        names = first[0] if first else [str(i) for i in range(len(rows[0]) if rows else 0)]
    if not rows or not all(map(str.strip, names)) or len(set(names)) < len(names):
        raise BrokenFile(
            f"{path} has {len(rows)} rows under the names {str(names)[:80]}; different names, "
            "and rows, are needed."
        )
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise BrokenFile(
                f"{path} has {len(row)} fields in row {i + 1} and {len(names)} names."
            )
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def _checked_names(names: Sequence[str]) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names must be a list of str; got {checks.describe(names)}.")
    return list(names)


def _is_data(field: str) -> bool:
    """Whether a field is no name: a number, a date, a share such as "5%", or "1;2" unsplit."""
    try:
        float(field)
    except ValueError:
        return any(map(str.isdigit, field)) and not any(map(str.isalpha, field))
    return True


def _column(fields: tuple[str, ...], name: str, path: str | Path) -> np.ndarray:
    for i, field in enumerate(fields):
        if not field.strip():
            raise BrokenFile(
                f"{path} has nothing in column {name!r}, row {i + 1}; a converter can say "
                "which value stands for an empty field."
            )
        if "\0" in field:
            raise BrokenFile(f"{path} has a NUL byte in column {name!r}, row {i + 1}.")
    text = np.array(fields)
    if not NUMERIC.issuperset("".join(fields)) or any(map(PADDED.fullmatch, fields)):
        return text
    try:
        numbers = text.astype(np.float64)
    except ValueError:
        return text
    if not np.isfinite(numbers).all():
        return text
    large = np.flatnonzero(np.abs(numbers) >= EXACT)
    if all(_is_exact(fields[i]) for i in large):
        return numbers
    try:
        return text.astype(np.int64)
    except (ValueError, OverflowError):
        return text


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
      classes: the number of classes; None takes the largest code plus 1.

    Returns:
      `[... classes]` float32.

    Raises:
      ValueError: if a code is no whole number or not in 0 .. classes - 1. (`jax.nn.one_hot`
        gives a row without a one there.)

    >>> one_hot([1, 0, 3]).astype(int).tolist()
    [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    """
    codes = checks.real_on_host(codes, "codes")
    # NaN and infinity differ from whatever integer they become.
    with np.errstate(invalid="ignore"):
        whole = codes.astype(np.int64)
    if codes.size and ((whole != codes).any() or whole.min() < 0):
        raise ValueError(
            "codes must be whole numbers from 0; use categories() to number other values."
        )
    largest = int(whole.max()) if codes.size else -1
    classes = largest + 1 if classes is None else checks.whole(classes, "classes", 0)
    if largest >= classes:
        raise ValueError(
            f"codes go up to {largest}; classes={classes} leaves no column for it, give "
            f"{largest + 1}."
        )
    rows = np.zeros((*codes.shape, classes), np.float32)
    np.put_along_axis(rows, whole[..., None], 1.0, axis=-1)
    return rows


class Agreement(NamedTuple):
    """How well a yes-or-no guess agrees with the truth (the end of chapter 4.3).

    `precision` is the share of the guesses that are true, `recall` the share of the truth that
    is guessed.
    """

    predicted: int
    actual: int
    matches: int
    precision: float
    recall: float


def agreement(predicted: Any, actual: Any) -> Agreement:
    """Count the places where one mask is True, where the other is, and where both are.

    >>> agreement([True, True, False, False], [True, False, True, False])
    Agreement(predicted=2, actual=2, matches=1, precision=0.5, recall=0.5)
    """
    predicted, actual = checks.on_host(predicted, "predicted"), checks.on_host(actual, "actual")
    if predicted.shape != actual.shape or not predicted.dtype == actual.dtype == np.bool_:
        raise ValueError(
            f"predicted and actual must be masks of one shape; got {predicted.shape} of "
            f"{predicted.dtype} and {actual.shape} of {actual.dtype}."
        )
    counts = (int(mask.sum()) for mask in (predicted, actual, predicted & actual))
    said, true, both = counts
    return Agreement(
        said, true, both, both / said if said else 0.0, both / true if true else 0.0
    )


class Roc(NamedTuple):
    """A receiver operating characteristic (chapter 14.5.2).

    Attributes:
      false_positive_rate: `[k]`, rising from 0 to 1.
      true_positive_rate: `[k]`, the recall at the same threshold.
      threshold: `[k]`, falling; a score at least as large counts as positive.
      area: under the curve: the share of pairs of a positive and a negative in which the
        positive has the larger score, ties counting one half.
    """

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    threshold: np.ndarray
    area: float


def roc(label: Any, score: Any, *, thresholds: Any = None) -> Roc:
    """How many positives are found for how many false alarms, at every threshold.

    Args:
      label: `[n]` 0 and 1, or a mask.
      score: `[n]` larger for what is more likely positive.
      thresholds: falling, such as the book's 100 numbers from 1 to 0; None takes every score,
        and infinity first.

    Raises:
      ValueError: if there is no positive or no negative, or a score is NaN.

    >>> roc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]).area
    0.75
    """
    label, score = checks.on_host(label, "label"), checks.real_on_host(score, "score")
    if label.shape != score.shape or label.ndim != 1 or not np.isin(label, (0, 1)).all():
        raise ValueError(
            f"label must be 0 or 1 for each score; got {checks.describe(label)} and "
            f"{checks.describe(score)}."
        )
    positive, negative = np.sort(score[label == 1]), np.sort(score[label == 0])
    if not len(positive) or not len(negative) or np.isnan(score).any():
        raise ValueError(
            f"{len(positive)} positives and {len(negative)} negatives; both are needed, and no "
            "score may be NaN."
        )
    if thresholds is None:
        cut = np.concatenate([[np.inf], np.unique(score)[::-1]])
    else:
        cut = checks.real_on_host(thresholds, "thresholds")
    found = 1 - np.searchsorted(positive, cut, side="left") / len(positive)
    alarms = 1 - np.searchsorted(negative, cut, side="left") / len(negative)
    return Roc(alarms, found, cut, float(np.trapezoid(found, alarms)))
