"""A text as tokens against the recorded outputs of the book's own published code (the
referee).
"""

import json

import numpy as np
import pytest

from dlwp_jax.data import text as texts
from experiments import ch09_tokens


@pytest.fixture(scope="module")
def odyssey(real_book):
    return texts.read(real_book / "book" / "p2ch9" / "odyssey.txt")


def test_the_odyssey_by_words_is_the_books(golden, odyssey):
    recorded = np.load(golden / "tokens_odyssey.npz")
    tokens = ch09_tokens.tokens_of(odyssey, ch09_tokens.by_words(odyssey), odyssey)
    entries = tokens.tokenizer.get_vocab_size()
    vocabulary = [tokens.tokenizer.id_to_token(number) for number in range(entries)]
    assert vocabulary == recorded["vocab"].tolist()
    assert len(vocabulary) == 8701
    assert len(tokens.ids) == recorded["n_tokens"]
    for text, ids, decoded in zip(
        recorded["text"], recorded["encoded"], recorded["decoded"], strict=True
    ):
        ours = tokens.tokenizer.encode(str(text)).ids
        assert ours == ids[ids >= 0].tolist()
        assert tokens.tokenizer.decode(ours) == decoded
    rows = ch09_tokens.sequences(tokens.ids)
    for array, letter in ((rows["x"], "X"), (rows["y"], "Y")):
        assert array.shape == tuple(recorded["shape"])
        np.testing.assert_array_equal(array[:20], recorded[f"{letter}_first"])
        assert array.sum(dtype=np.int64) == recorded[f"{letter}_sum"]
    np.testing.assert_array_equal(rows["x"][-3:], recorded["X_last"])


def test_the_books_losses_are_those_that_its_notebook_prints(golden, capsys, tmp_path):
    printed = json.loads((golden / "printed_losses_ch9.json").read_text())
    (key,) = (name for name in printed if "words of the Odyssey" in name)
    printed = list(printed[key].values())
    assert [float(value) for value in ch09_tokens.BOOK.split()] == printed
    # Two means of 100 steps stand beside one of the book's, behind 500 steps without one.
    book = {"blocks": 6, "optimizer": "sgd", "batch_size": 64, "steps": 5500}
    config = ch09_tokens.Config(text=tmp_path, **book)
    losses = np.concatenate([np.full(5, 9.0), np.repeat(printed, 2) + [0.5, -0.5] * 25])
    history = {"train/loss": losses, "val/loss": losses}
    tokens = ch09_tokens.Tokens(ch09_tokens.by_words("a"), np.arange(2), 1.0)
    assert config.steps // config.every == len(losses)
    ch09_tokens.show_losses("words", history, tokens, config)
    assert "of 25 figures 25 equal the book's in every digit" in capsys.readouterr().out


def test_pairs_give_every_text_back():
    """The text itself is the referee, of signs that the vocabulary has never seen too."""
    tokenizer = ch09_tokens.by_pairs("in the inn, in the end\n" * 9, 260)
    assert tokenizer.get_vocab_size() == 260
    for text in ("in the inn", " two  spaces\n\n\ttabs ", "Ἄνδρα μοι ἔννεπε, 🐴"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("in").ids == [256]  # the most frequent pair, 27 times


@pytest.mark.slow
def test_a_short_run(tmp_path, capsys):
    """The first losses are those of a guess, about the logarithm of the number of entries."""
    story = "The sun rose over the harbour, and the men went to their ships. They rowed on.\n"
    (tmp_path / "story.txt").write_text(story * 60, "utf-8")
    config = ch09_tokens.Config(
        text=tmp_path / "story.txt", steps=5, batch_size=2, pairs=300, blocks=1, out=tmp_path
    )
    ch09_tokens.main(config)
    shown = capsys.readouterr().out
    for name, entries in (("words", 18), ("pairs", 300)):
        assert f"\n{name:8s}{entries:7d}" in shown
        history = (tmp_path / "ch09_tokens" / f"history_{name}.jsonl").read_text()
        first = json.loads(history.splitlines()[0])
        assert abs(first["train/loss"] - np.log(entries)) < 1
    assert (tmp_path / "ch09_tokens" / "tokens.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_refused(tmp_path):
    for wrong in ({"steps": 0}, {"batch_size": 0}, {"pairs": 256}):
        with pytest.raises(ValueError, match=r"at least 1|above 256"):
            ch09_tokens.Config(**wrong)
    (tmp_path / "short.txt").write_text("Too short.", "utf-8")
    config = ch09_tokens.Config(text=tmp_path / "short.txt", out=tmp_path)
    with pytest.raises(ValueError, match="tokens; 201 are needed"):
        ch09_tokens.main(config)
