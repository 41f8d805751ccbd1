import pytest

from experiments import ch04_data


@pytest.mark.slow
def test_every_kind_on_embedded_data(tmp_path, capsys):
    kinds = (*ch04_data.Config().kinds, "cifar10")
    ch04_data.main(ch04_data.Config(kinds=kinds, out=tmp_path))
    assert {path.name for path in (tmp_path / "ch04_data").glob("*.png")} == {
        f"{kind}.png" for kind in kinds
    }
    assert (
        "book" not in capsys.readouterr().out
    )  # no figures are compared where the data is not the book's


@pytest.mark.slow
def test_every_figure_is_the_books(real_book, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DLWP_DATA", str(real_book))
    ch04_data.main(ch04_data.Config(data="book", out=tmp_path))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("of ")]
    assert len(told) == 8
    for line in told:
        _, n, _, equal, *_ = line.split()
        assert n == equal, line
