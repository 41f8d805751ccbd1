"""Names as tensors, their table of pairs, and the book's printed losses, against the recorded
outputs of the book's own published code (the referee).
"""

import hashlib
import json

import numpy as np
import pytest

from experiments import ch09_names, first_names


def test_names_as_tensors_are_the_books(golden, real_book):
    recorded = np.load(golden / "names_tensors.npz")
    names = first_names.read(real_book / "book" / "p2ch9" / "names_2022.txt")
    lengths = [len(name) for name in names]
    assert (len(names), max(lengths), min(lengths)) == (31915, 15, 2)
    assert round(np.mean(lengths), 4) == 6.0521
    x, y = ch09_names.tokens_of(names)
    assert x.shape == tuple(recorded["shape"])
    assert list(ch09_names.LETTERS) == recorded["vocab"].tolist()
    np.testing.assert_array_equal(x[:40], recorded["X_first"])
    np.testing.assert_array_equal(y[-20:], recorded["Y_last"])
    for array, letter in ((x, "X"), (y, "Y")):
        assert hashlib.sha256(array.tobytes()).hexdigest() == str(recorded[f"{letter}_sha256"])
    assert (y >= 0).sum() == recorded["bigram_total"]
    shares = ch09_names.pair_shares(x, y)
    np.testing.assert_allclose(shares, recorded["bigram"], rtol=1e-6)


def test_the_books_losses_are_those_that_its_notebooks_print(golden):
    printed = json.loads((golden / "printed_losses_ch9.json").read_text())
    keys = {
        "MLP": "SequenceMLP, SGD 0.1",
        "attention": "AttentionMLP(32), SGD 0.01",
        "transformer": "Transformer(64, 6 blocks), SGD 0.1",
    }
    for name, key in keys.items():
        ours = [float(value) for value in ch09_names.BOOK[name].split()]
        assert ours == list(printed[key].values())
        assert ch09_names.RATES[name] == float(key.split()[-1])


@pytest.mark.slow
def test_a_short_run(tmp_path, capsys):
    """The losses of a few steps are those of an untrained model: about log 27 and falling."""
    config = ch09_names.Config(steps=5, blocks=1, out=tmp_path)
    ch09_names.main(config)
    shown = capsys.readouterr().out
    for name in ch09_names.BOOK:
        first, last = (
            float(word)
            for word in shown.split(f"\n{name:12s} loss ")[1].splitlines()[0].split()[:4:3]
        )
        assert last < first < np.log(27) + 1
    written = {path.name for path in (tmp_path / "ch09_names").iterdir()}
    assert {"attention.png", "losses.png", "history_transformer.jsonl"} <= written


def test_steps_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        ch09_names.Config(steps=0)
