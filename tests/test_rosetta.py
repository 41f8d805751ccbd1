"""The page from torch to JAX: every pair runs, both halves agree, and the page shows what was
run.
"""

import jax
import pytest
import torch

from scripts.parity import differences
from scripts.rosetta import execute, page, pairs, torch_nn
from tests.conftest import ROOT

GROUPS = pairs.read_all()
PAIRS = [pair for group in GROUPS for pair in group.pairs]
BITES, QUIET = pairs.read("bites"), pairs.read("quiet")
BITING = [*BITES.pairs, *QUIET.pairs]


@pytest.fixture(scope="module", autouse=True)
def _keep_small_programs():
    """Hundreds of programs that each compile in less than the 0.2 s from which on conftest
    keeps them.
    """
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.0)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def sample_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rosetta")
    execute.sample_files(folder)
    return folder


@pytest.mark.parametrize("pair", [*PAIRS, *BITING], ids=lambda pair: pair.names[0])
@pytest.mark.slow
def test_both_halves_agree(pair, sample_files, monkeypatch):
    monkeypatch.chdir(sample_files)
    execute.check(pair)


@pytest.mark.parametrize("pair", BITING, ids=lambda pair: pair.names[0])
def test_what_bites_gives_other_numbers(pair):
    execute.check_that_it_bites(pair)


def test_the_line_of_torch_uses_every_name_it_stands_for():
    assert {pair.names: unused for pair in PAIRS if (unused := pairs.unused_names(pair))} == {}


def test_every_name_of_the_book_has_a_pair(shared_data):
    listed = (shared_data.parent / "book_torch_names.txt").read_text().split()
    covered = pairs.book_names(GROUPS)
    print(f"{len(covered & set(listed))} of {len(listed)} torch names have a pair")
    assert covered == set(listed)


def test_the_number_of_names_is_the_books():
    assert len(pairs.book_names(GROUPS)) == page.BOOK_NAMES


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("torch_to_jax", page.render(GROUPS)),
        ("coming_from_torch", page.render_bites(BITES, QUIET)),
    ],
)
def test_the_pages_are_what_the_cells_make(name, text):
    assert (ROOT / "docs" / f"{name}.md").read_text() == text, "run scripts/torch_names"


# Each difference of docs/parity.md: the heading under which it bites, or the words that tell of
# it.
SHOWN = {
    "Linear and Conv initialisation": "Weights start smaller or larger",
    "Embedding initialisation": "An embedding starts narrower",
    "RNN, LSTM, GRU": "recurrent cells have one bias",
    "sequences of different lengths": "leaves numbers behind the end",
    "BatchNorm": "Batch norm counts its momentum the other way round",
    "Layer-, Group-, InstanceNorm": "The epsilon of a layer norm",
    "convolution's padding": '"SAME" is not padding=1',
    "transposed convolution": "A transposed convolution",
    "pooling": "Pooling goes on by one",
    "flatten": "A flattened image has another order",
    "grid_sample, affine_grid": "`grid_sample` and `affine_grid` are absent",
    "resize": "Shrinking a picture",
    "GELU": "GELU is an approximation",
    "SGD": "Weight decay and momentum",
    "Adam, AdamW": "Adam's weight decay is not AdamW's",
    "RMSprop": "RMSprop's defaults",
    "Adagrad, Adadelta, Adamax, NAdam, RAdam, ASGD, Rprop, L-BFGS": "Adagrad's first sum",
    "ReduceLROnPlateau": "Patience on a plateau",
    "clip_grad_norm_": "Clipping small gradients",
    "cross_entropy(weight=)": "Weights of classes divide by their sum",
    "precision of products": "TensorFloat-32",
}


def test_every_difference_from_the_jax_side_is_on_the_page_of_what_bites():
    assert [what for what, *_ in differences.ROWS] == list(SHOWN)
    headings = {pair.names[0] for pair in BITING}
    assert [
        words for words in SHOWN.values() if words not in headings and words not in QUIET.words
    ] == []


@pytest.mark.parametrize("names", [torch_nn.classes(), torch_nn.functions()], ids=len)
def test_every_name_of_torch_nn_is_here_or_has_a_reason(names):
    without = {name for name in names if torch_nn.place(name) is None}
    assert without == {name for name in torch_nn.WITHOUT if name in names}
    for name in set(names) - without:
        assert callable(torch_nn.found(torch_nn.place(name)))


def test_named_tensors_have_gone_from_torch():
    assert not hasattr(torch.Tensor, "refine_names")


PAIR = pairs.Pair(("torch.exp",), "torch.exp(x)", "jnp.exp(x)", "")


@pytest.mark.parametrize(
    ("jax_cell", "flags", "message"),
    [
        ("jnp.exp(x) + 1e-3", (), "value"),
        ("jnp.exp(x)[None]", (), "shape"),
        ("jnp.exp(x).astype(jnp.float16)", (), "dtype"),
        ("jnp.exp(jax.lax.stop_gradient(x))", (), "gradient by x"),
        ("np.exp(x).tolist()", (), "list here"),
        ("jax.random.normal(key, (3, 4)) - 20", ("random",), "Kolmogorov"),
        ("jnp.exp(x).T", ("unset",), "shape"),
    ],
)
def test_a_pair_that_differs_fails(jax_cell, flags, message):
    wrong = pairs.Pair(PAIR.names, PAIR.torch, jax_cell, "", flags)
    with pytest.raises(AssertionError, match=message):
        execute.check(wrong)


def test_modules_that_differ_fail():
    wrong = pairs.Pair(
        ("torch.nn.BatchNorm2d",),
        "nn.BatchNorm2d(3)",
        "nn.BatchNorm2d(3, eps=1e-3)",
        "",
        ("on images",),
    )
    with pytest.raises(AssertionError):
        execute.check(wrong)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("# %% torch.exp\ntorch.exp(x)\n", "is empty"),
        ("# %% jax\njnp.exp(x)\n# %% torch.exp\ntorch.exp(x)\n", "follows no cell"),
        (
            "# %% torch.exp | rnadom\ntorch.exp(x)\n# %% jax\njnp.exp(x)\n",
            "'rnadom' is unknown",
        ),
        ("# %% torch.exp\ntorch.exp(x)\n# %% jax\n# only words\n", "is empty"),
    ],
)
def test_cells_that_are_not_pairs_are_refused(tmp_path, monkeypatch, source, message):
    (tmp_path / "made_up.py").write_text(f'"""Made up"""\n\n{source}')
    monkeypatch.setattr(pairs, "CELLS", tmp_path)
    with pytest.raises(ValueError, match=message):
        pairs.read("made_up")


def test_the_page_of_what_bites_runs_from_its_first_line(tmp_path, monkeypatch):
    """The JAX lines of the page, typed in as it shows them, in one session."""
    monkeypatch.chdir(tmp_path)
    _, inputs = page.standalone_inputs()
    for pair in BITES.pairs:
        names: dict = {}
        exec(inputs, names)
        for cell in (pair.bites, pair.jax):
            execute.value_of(cell, names)
