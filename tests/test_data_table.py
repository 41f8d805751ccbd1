import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dlwp_jax.data import BrokenFile, series, table

HOURS = np.arange("2011-01-01T00", "2011-01-03T00", dtype="datetime64[h]")


@pytest.fixture
def written(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
        return path

    return write


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_numbers_with_names(written, end, encoding):
    path = written(end.join(['"a b";c', "1;-2.5", "3e2;+4", ""]), encoding)
    read = table.read(path, delimiter=";")
    assert read.names == ("a b", "c")
    assert read.values.dtype == np.float32
    np.testing.assert_array_equal(read.values, [[1, -2.5], [300, 4]])
    np.testing.assert_array_equal(read["c"], [-2.5, 4])
    with pytest.raises(ValueError, match="column 'd' is not in the table; there are a b, c"):
        read["d"]


@given(
    values=hnp.arrays(np.float32, (3, 2), elements=st.floats(-(2.0**100), 2.0**100, width=32))
)
def test_float32_round_trips_through_text(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("t") / "x.csv"
    path.write_text("a,b\n" + "".join(f"{float(a)!r},{float(b)!r}\n" for a, b in values))
    np.testing.assert_array_equal(table.read(path).values, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", "1 fields in row 2 and 2 names"),
        ("a,b\n1,2,3\n", "3 fields in row 1"),
        ("a,b\n1,\n", "nothing in column 'b', row 1"),
        ("a,b\n1,2\n3,x\n", "'x' in column 'b', row 2"),
        ("a,b\n1,2\n3,nan\n", "'nan' in column 'b', row 2"),
        ("a,b\n1,2\n3,inf\n", "'inf' in column 'b', row 2"),
        ("a,b\n", "0 rows"),
        ("", "0 rows"),
        ("a,a\n1,2\n", "rows and names"),
        ("a,\n1,2\n", "rows and names are needed"),
        (b"a,b\n1,\xff\n", "cannot be read as delimited text"),
        ('a,b\n"1,2\n', "cannot be read as delimited text"),
    ],
)
def test_broken_tables_are_refused_by_place(written, text, message):
    with pytest.raises(BrokenFile, match=message):
        table.read(written(text))


def test_converters_and_text_columns(written):
    path = written("day,n,who\n2011-01-07,3,ann\n2011-02-09,4,bob\n")
    read = table.read(path, converters={"day": lambda date: float(date[8:10]), "who": len})
    np.testing.assert_array_equal(read.values, [[7, 3, 3], [9, 4, 3]])
    columns = table.read_columns(path)
    assert columns["who"].tolist() == ["ann", "bob"]
    assert columns["n"].dtype == np.float64
    with pytest.raises(BrokenFile, match="numbers in column 'who'"):
        table.read(path, converters={"who": float})
    with pytest.raises(ValueError, match="converters names when"):
        table.read(path, converters={"when": float})


@given(
    hnp.arrays(np.int64, hnp.array_shapes(max_dims=3, max_side=4), elements=st.integers(0, 9))
)
def test_one_hot_equals_torch_and_round_trips(codes):
    rows = table.one_hot(codes)
    np.testing.assert_array_equal(
        rows, torch.nn.functional.one_hot(torch.tensor(codes)).numpy()
    )
    np.testing.assert_array_equal(table.one_hot(codes.astype(np.float32), 12).argmax(-1), codes)


@pytest.mark.parametrize("codes", [[-1], [0.5], [3], [np.inf], [np.nan]])
def test_one_hot_refuses_what_has_no_column(codes):
    with pytest.raises(ValueError, match="codes"):
        table.one_hot(codes, 3)


@given(st.lists(st.text("abc"), min_size=1))
def test_categories_round_trip(values):
    codes, names = table.categories(values)
    assert names[codes].tolist() == values
    assert sorted(set(values)) == names.tolist()


def test_agreement_wants_masks():
    with pytest.raises(ValueError, match="masks of one shape"):
        table.agreement(np.array([1, 0]), np.array([True, False]))
    assert table.agreement([False], [False]) == (0, 0, 0, 0.0, 0.0)


# --- time series


def test_missing_hours_are_found_and_named():
    gone = [5, 6, 30]
    times = np.delete(HOURS, gone)
    np.testing.assert_array_equal(series.missing_times(times, (1, "h")), HOURS[gone])
    message = r"lack 3 of 48 steps of 1 hours: 2011-01-01T05, 2011-01-01T06, 2011-01-02T06\."
    with pytest.raises(ValueError, match=message):
        series.check_regular(times, (1, "h"))
    with pytest.raises(ValueError, match=r"lack 23 .*, \.\.\."):
        series.check_regular(HOURS[[0, -1 - 23]], (1, "h"))
    series.check_regular(HOURS, np.timedelta64(60, "m"))
    series.check_regular(HOURS[:1], (1, "h"))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (HOURS[[0, 2, 1]], "2011-01-01T02 is followed by 2011-01-01T01"),
        (HOURS[[0, 1, 1]], "2011-01-01T01 is followed by 2011-01-01T01"),
        (
            np.array(
                ["2011-01-01T00:00", "2011-01-01T00:30", "2011-01-01T01:00"], "datetime64[m]"
            ),
            "00:30 is not",
        ),
        (np.array([], "datetime64[h]"), "not empty"),
        (np.array(["NaT"], "datetime64[h]"), "NaT"),
    ],
)
def test_clocks_that_do_not_tick_are_refused(times, message):
    with pytest.raises(ValueError, match=message):
        series.check_regular(times, (1, "h"))
    with pytest.raises(ValueError, match="must be positive"):
        series.check_regular(HOURS, (0, "h"))


def test_days_are_views_as_in_torch():
    hours = np.arange(72 * 17, dtype=np.float32).reshape(72, 17)
    reference = torch.tensor(hours).view(-1, 24, 17).transpose(1, 2)
    daily = series.days(hours)
    assert daily.shape == tuple(reference.shape) == (3, 17, 24)
    assert daily.stride() == reference.stride() == (408, 1, 17)
    np.testing.assert_array_equal(daily.storage, hours.ravel())
    np.testing.assert_array_equal(daily.to_array(), reference)
    with pytest.raises(ValueError, match=r"shape \(73, 17\)"):
        series.days(np.zeros((73, 17)))


def test_ordinal_levels():
    np.testing.assert_array_equal(
        series.ordinal_one_hot([[4], [1]], low=1, high=4)[:, 0], np.eye(4)[[3, 0]]
    )
    with pytest.raises(ValueError, match="from 0 to 4, not within low=1"):
        series.ordinal_one_hot([0, 4], low=1, high=4)


@pytest.mark.parametrize("field", ["1e300", "1\0"])
def test_numbers_too_large_and_nul_bytes_are_refused_by_place(written, field):
    with pytest.raises(BrokenFile, match="in column 'a', row 2"):
        table.read(written(f"a,b\n1,2\n{field},3\n"))


def test_a_converter_that_gives_nan_is_refused_by_place(written):
    with pytest.raises(BrokenFile, match="column 'a', row 1"):
        table.read(written("a\n1\n"), converters={"a": lambda field: float("nan")})
