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
        ("a,a\n1,2\n", "different names, and rows"),
        ("a,\n1,2\n", "different names, and rows"),
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


# --- numbers, names, and the line of names (the referee is Python's own Decimal and int)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["1_2", "12"], ["1_2", "12"]),
        (["1_000", "2"], ["1_000", "2"]),
        (["007", "7"], ["007", "7"]),
        (["-012", "1"], ["-012", "1"]),
        (["\u0663", "3"], ["\u0663", "3"]),  # Arabic three, which float() takes
        (
            ["123456789012345678", "123456789012345679"],
            [123456789012345678, 123456789012345679],
        ),
        (["-9007199254740993", "1"], [-9007199254740993, 1]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (["1e3", "-.5"], [1000.0, -0.5]),
        (["9007199254740992", "0.5"], [9007199254740992.0, 0.5]),
        (["10000000000000000000000.000", "1"], [1e22, 1.0]),
    ],
)
def test_columns_keep_names_and_long_numbers_as_they_are_written(written, fields, expected):
    column = table.read_columns(written("id,mm\n" + "".join(f"{f},1\n" for f in fields)))["id"]
    assert column.tolist() == expected
    assert len(set(column.tolist())) == len(fields)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("1_2", "3", "'1_2' in column 'a', row 1, which is no finite number"),
        ("1", "123456789012345679", "row 2, which float64 rounds"),
        ("1", "12345678901234567890", "row 2, which is too long"),
        ("1600000000", "1600000060", "row 2, which float32 rounds"),
        ("1600000000.5", "1600000060.5", "row 1, which float32 rounds"),
        (
            "2459000.51",
            "2459000.55",
            "row 1, which float32 rounds",
        ),  # days, as astronomers count
        ("1600000000000000000", "1600000549755813888", "row 1, which float32 rounds"),
        ("16777217", "16777220", "row 1, which float32 rounds"),
    ],
)
def test_a_table_refuses_numbers_that_it_would_change(written, first, second, message):
    path = written(f"a,b\n{first},1\n{second},2\n")
    with pytest.raises(BrokenFile, match=message):
        table.read(path)
    if "float32" in message:
        wide = table.read(path, dtype=np.float64)["a"]
        assert wide.tolist() == [float(first), float(second)]
        start = float(first)
        moved = table.read(path, converters={"a": lambda text: float(text) - start})["a"]
        np.testing.assert_allclose(moved, [0, float(second) - start], rtol=1e-7)


def test_a_table_takes_numbers_that_float32_holds_well_enough(written):
    path = written("a,b\n007,6.02214076e23\n0.1,0.2\n16777216,3\n")
    np.testing.assert_array_equal(
        table.read(path).values,
        np.float32([[7, 6.02214076e23], [0.1, 0.2], [16777216, 3]]),
    )


def test_a_file_without_a_line_of_names(written):
    path = written("5.1,3.5,1.4\n4.9,3.0,1.2\n")
    rows = np.loadtxt(path, delimiter=",", dtype=np.float32)
    with pytest.raises(BrokenFile, match=r"holds numbers; give names="):
        table.read(path)
    read = table.read(path, names=["length", "width", "depth"])
    assert read.names == ("length", "width", "depth")
    np.testing.assert_array_equal(read.values, rows)
    read = table.read(path, header=False)
    assert read.names == ("0", "1", "2")
    np.testing.assert_array_equal(read.values, rows)
    years = written("country,1990,2000\nChad,5,8\n")
    with pytest.raises(BrokenFile, match="header=True"):
        table.read_columns(years)
    assert table.read_columns(years, header=True)["1990"].tolist() == [5.0]
    assert list(table.read_columns(years, header=True, names=["c", "a", "b"])) == [
        "c",
        "a",
        "b",
    ]
    with pytest.raises(BrokenFile, match="3 fields in row 1 and 2 names"):
        table.read(path, names=["length", "width"])


@pytest.mark.parametrize("row", ["nan,inf", "1_2,3_4", "5%,x", "2026-01-01,x", "a,", "1;2"])
def test_a_first_row_of_data_is_not_taken_for_names(written, row):
    path = written(f"{row}\n{row}\n")
    with pytest.raises(BrokenFile, match="names"):
        table.read_columns(path)
    if not row.endswith(","):
        text = np.loadtxt(path, delimiter=",", dtype=str, ndmin=2)
        read = table.read_columns(path, header=False)
        np.testing.assert_array_equal(np.stack(list(read.values()), 1).astype(str), text)


def test_a_converter_that_gives_no_number_is_refused_by_row(written):
    path = written("a,b\n1,\n2,3\n")
    maybe = {"b": lambda field: float(field) if field else None}
    with pytest.raises(BrokenFile, match="None in column 'b', row 1"):
        table.read(path, converters=maybe)


def test_a_converter_is_asked_for_empty_fields_and_gets_the_text_itself(written):
    path = written("age,who,n\n22,ann,007\n ,bob,8\n")
    asked = []
    converters = {
        "age": lambda text: float(text) if text.strip() else -1.0,
        "n": lambda text: asked.append(text) or len(text),
    }
    assert table.read_columns(path, converters=converters)["age"].tolist() == [22.0, -1.0]
    assert asked == ["007", "8"]
    read = table.read(path, converters=converters | {"who": len})
    np.testing.assert_array_equal(read.values, [[22, 3, 3], [-1, 3, 1]])
    with pytest.raises(BrokenFile, match="a converter can say which"):
        table.read_columns(path)


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
