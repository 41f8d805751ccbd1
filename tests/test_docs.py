"""The pages: their code runs and prints what they show, their links and names lead somewhere,
the map is whole.
"""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pytest

from tests import pages
from tests.conftest import ROOT
from tests.pages import PAGES

MAP = ROOT / "docs" / "ideas.md"
TORCH = (
    "torch_to_jax",
    "coming_from_torch",
)  # written by scripts/torch_names; tests/test_rosetta.py runs them
LINK = re.compile(r"\[(?P<text>[^\]\n]*)\]\((?P<target>[^)\s]+)\)")
IN_CODE = re.compile(r"`([^`\n]+)`")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def by_name(found: list[Path], slow: tuple[str, ...] = ()) -> list:
    return [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] * (page.stem in slow))
        for page in found
    ]


# The code


def walk(page: Path, folder: Path, monkeypatch) -> dict:
    """Run a page in a folder, comparing what it prints; the names that it leaves behind."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    pytest.importorskip("matplotlib").use("Agg")
    names: dict = {}
    for block, printed in pages.run(page, names):
        if block.printed is not None:
            wrong = pages.difference(printed, block.printed)
            assert wrong is None, f"{page.name}, line {block.line}: {wrong}"
    return names


# The pages whose code is run elsewhere: below, and by tests/on_eight_devices.py.
ELSEWHERE = (*TORCH, "parity_howto", "sharding")
WITH_CODE = [page for page in PAGES if pages.blocks(page) and page.stem not in ELSEWHERE]


@pytest.mark.parametrize(
    "page", by_name(WITH_CODE, slow=("layers", "parity_sequences", "search", "training"))
)
def test_the_pages_code_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    walk(page, tmp_path, monkeypatch)


def test_the_ported_model_takes_torchs_next_steps(tmp_path, monkeypatch):
    import torch

    from dlwp_jax import parity

    names = walk(ROOT / "docs" / "parity_howto.md", tmp_path, monkeypatch)
    theirs, opt = names["theirs"], names["opt"]
    for _ in range(2):
        opt.zero_grad()
        logits = theirs(torch.tensor(names["images"]))
        torch.nn.functional.cross_entropy(logits, torch.tensor(names["labels"])).backward()
        opt.step()
    here = parity.to_torch(names["learner"].model(names["after"]), names["loaded"])
    for name, value in theirs.state_dict().items():
        # Five Adam steps of 3e-4; that of a weight whose gradient is all but 0 is the quotient
        # of two roundings.
        torch.testing.assert_close(
            here[name], value, rtol=1e-5, atol=3e-5, check_dtype=False, msg=name
        )
        before = names["checkpoint"]["model"][name]
        assert np.issubdtype(before.numpy().dtype, np.integer) or not torch.equal(
            value, before
        )  # a step was taken
    for module in ("my_torch", "my_flax"):
        sys.modules.pop(module)


@pytest.mark.parametrize(
    ("printed", "shown", "is_same"),
    [
        ("loss 0.1239 of 3", "loss 0.124 of 3", True),
        ("loss 0.127 of 3", "loss 0.124 of 3", False),
        ("loss 0.124 of 4", "loss 0.124 of 3", False),
        ("rate 2.1e-03", "rate 2e-03", True),
        ("rate 2.1e-02", "rate 2e-03", False),
        ("-0.5", "0.5", False),
        ("  a   1", "a 1", True),
        ("took 3.2 s, float32", "took ... s, float32", True),
        ("took 3.2 s, float64", "took ... s, float32", False),
        ("nan", "0.5", False),
    ],
)
def test_what_counts_as_the_same_line(printed, shown, is_same):
    assert pages.same(printed, shown) is is_same


def test_lines_that_are_missing_or_too_many_are_a_difference():
    assert pages.difference("a\nb\n", "a\nb\n") is None
    for printed in ("a\n", "a\nb\nc\n", "a\nc\n", ""):
        assert pages.difference(printed, "a\nb\n")


@pytest.mark.parametrize("page", by_name([*PAGES, ROOT / "CONTRIBUTING.md"]))
def test_every_block_is_of_a_language_that_is_known_here(page):
    fences = re.findall(r"^ *```.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    known = [
        block
        for language in ("python", "py", "text", "bash", "mermaid")
        for block in pages.blocks(page, language)
    ]
    assert len(fences) == 2 * len(known)  # another, or one within a list, would not be run


# Links, names, commands


def anchors(page: Path) -> set[str]:
    """What can be linked to on a page, as GitHub names headings; and anchors set by hand."""
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {*words, *re.findall(r'<a id="([^"]+)">', text)}


def test_anchors_are_githubs():
    found = anchors(ROOT / "docs" / "performance.md")
    assert "storage-and-views-chapter-3" in found
    assert "torch.Tensor.T" in anchors(ROOT / "docs" / "torch_to_jax.md")


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong = []
    for match in LINK.finditer(prose(page)):
        target = match["target"]
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / unquote(path)).resolve() if path else page
        if (
            not file.is_relative_to(ROOT)
            or not file.exists()
            or (anchor and anchor not in anchors(file))
        ):
            wrong.append(match[0])
    return wrong


EVERY = [*PAGES, ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", by_name(EVERY))
def test_every_link_leads_somewhere(page):
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path):
    links = {
        "data.md": False,
        "none.md": True,
        "data.md#augmentation": False,
        "data.md#none": True,
        "/etc": True,
    }
    text = " ".join(f"[a]({link})" for link in links)
    fake = tmp_path / "made_up.md"
    fake.write_text(
        text.replace("data.md", quote(os.path.relpath(ROOT / "docs" / "data.md", tmp_path)))
    )
    assert len(broken(fake)) == sum(links.values())


def resolved(name: str):
    """The object that a dotted name stands for."""
    parts = name.split(".")
    found = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            importlib.import_module(
                ".".join(parts[:i])
            )  # ModuleNotFoundError where there is none
        found = getattr(found, part)
    return found


def public_modules() -> list[str]:
    import dlwp_jax

    return [*dlwp_jax.__all__, "parity"]  # which is not among those of `import *`


def names_in(page: Path) -> set[str]:
    """The names of ours in the text of a page: `dlwp_jax.train.fit`, `train.fit`,
    `train.fit(...)`.
    """
    modules = "|".join(public_modules())
    pattern = rf"(?:dlwp_jax\.)?((?:{modules})(?:\.[A-Za-z_]\w*)*)(?:\(.*)?"
    codes = [code for code in IN_CODE.findall(prose(page)) if not code.endswith(".py")]
    found = [re.fullmatch(pattern, code) for code in codes]
    return {
        match[1]
        for match in found
        if match and (match[0].startswith("dlwp_jax") or "." in match[1])
    }


@pytest.mark.parametrize("page", by_name([page for page in EVERY if page.stem not in TORCH]))
def test_every_name_in_the_text_is_there(page):
    absent = []
    for name in sorted(names_in(page)):
        try:
            resolved(f"dlwp_jax.{name}")
        except (ModuleNotFoundError, AttributeError) as error:
            absent.append(f"{name}: {error}")
    assert absent == []


@pytest.mark.parametrize("page", by_name(EVERY))
def test_every_path_in_the_text_is_there(page):
    paths = [code.split()[0].partition("::")[0] for code in IN_CODE.findall(prose(page))]
    kept = [
        path
        for path in paths
        if re.match(r"(scripts|tests|docs|experiments|dlwp_jax|\.ci)/[\w./]*$", path)
    ]
    assert [path for path in kept if not (ROOT / path).exists()] == []


def commands() -> list[tuple[str, str]]:
    """Every command of ours on the pages, in blocks and in the text, with its page."""
    found = []
    for page in EVERY:
        lines = [
            line for block in pages.blocks(page, "bash") for line in block.code.splitlines()
        ]
        lines += re.findall(
            r"^    (scripts/.*|python -m .*)$", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        lines += IN_CODE.findall(prose(page))
        ours = [line for line in lines if re.match(r"scripts/\w+( |$)|python -m ", line)]
        found += [(page.stem, re.sub(r"\s*#.*|\s*\.\.\.$", "", line)) for line in ours]
    return list(dict.fromkeys(found))


def check_command(words: list[str]) -> None:
    """Refuse a command that is not there, or that would not take its words."""
    if words[0].startswith("scripts/"):
        assert os.access(ROOT / words[0], os.X_OK), "is no script"
    if words[0] == "scripts/bench":
        known = {path.stem for path in (ROOT / "scripts" / "benchmarks").glob("*.py")} | {
            "NAME",
            "all",
        }
        assert set(words[1:]) - {"--write", "--list"} <= known, "is no benchmark"
    if words[:3] == ["python", "-m", "experiments"] or words[0] == "scripts/run":
        check_experiment(words[3 if words[0] == "python" else 1 :])
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), "is no module"


def check_experiment(words: list[str]) -> None:
    import tyro

    from experiments import nodules
    from experiments.__main__ import names

    if not words or words[0] in ("--list", "NAME") or words == ["nodules"]:
        return
    if words[0] == "nodules":
        assert words[1] in nodules.COMMANDS, "is no command"
        words = [f"nodules.{words[1]}", *words[2:]]
    else:
        assert words[0] in names(), "is no experiment"
    if words[1:] != ["--help"]:
        pytest.importorskip("matplotlib").use("Agg")
        config = importlib.import_module(f"experiments.{words[0]}").Config
        tyro.cli(config, args=words[1:])


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_is_one(page, command, tmp_path, monkeypatch):
    words = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    for word in words:
        if Path(word).suffix and "/" not in word:
            Path(word).touch()  # a file of the reader that a flag names
    check_command(words)


@pytest.mark.parametrize(
    "command",
    [
        "scripts/none",
        "scripts/bench none",
        "scripts/run ch01_none",
        "python -m experiments ch08_convolution --epoch 3",
    ],
)
def test_a_command_that_is_none_is_found(command):
    with pytest.raises((AssertionError, SystemExit)):
        check_command(shlex.split(command))


def test_the_readmes_accuracies_are_those_of_the_experiments():
    rows = re.findall(
        r"\|([^|]*)\| `scripts/run (ch\w+) --data cifar10`",
        pages.README.read_text(encoding="utf-8"),
    )
    assert len(rows) == 2
    for figures, name in rows:
        told = ast.get_docstring(
            ast.parse((ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8"))
        )
        assert [figure for figure in re.findall(r"\.\d+", figures) if figure not in told] == []


def test_the_readmes_times_are_those_of_the_page_of_performance():
    cell = re.search(
        r"\| time divided by[^|]*\|([^|]*)\|", pages.README.read_text(encoding="utf-8")
    )
    rows = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").splitlines()
    assert cell is not None
    for figure in cell[1].split(","):
        name, _, ratio = figure.strip().rpartition(" ")
        name = name.removeprefix("fully connected (").removesuffix(")")
        # The ratio stands behind the times, which have units, and before the target.
        first = next(row for row in rows if row.startswith(f"| {name}"))
        found = re.search(r"\| (\d+\.\d\d) \|", first)
        assert found is not None
        assert found[1] == ratio, first


# The map of ideas


def test_every_experiment_and_public_module_is_on_the_map():
    text = prose(MAP)
    written = {path.stem for path in (ROOT / "experiments").glob("ch*.py")}
    assert written - set(re.findall(r"experiments\.md#(ch\w+)\)", text)) == set()
    assert set(public_modules()) - {name.partition(".")[0] for name in names_in(MAP)} == set()
    shown = re.findall(
        r"^## (ch\w+)$", (ROOT / "docs" / "experiments.md").read_text(), re.MULTILINE
    )
    assert sorted(shown) == sorted(written)


@pytest.mark.parametrize(("page", "at_least"), [("ideas", 80), ("reliability", 40)])
def test_every_test_that_a_page_names_exists(page, at_least):
    text = prose(ROOT / "docs" / f"{page}.md")
    named = re.findall(r"\[`(\w+)::(test_\w+)`\]\(\.\./tests/test_(\w+)\.py\)", text)
    assert len(named) > at_least
    assert len(named) == text.count("::")
    absent = []
    for file, function, target in named:
        tree = ast.parse((ROOT / "tests" / f"test_{target}.py").read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if file != target or function not in functions:
            absent.append(f"{file}::{function}")
    assert absent == []


def test_every_name_on_the_map_is_in_the_file_that_it_links_to():
    elsewhere = []
    for text, target in LINK.findall(prose(MAP)):
        if target.startswith("../dlwp_jax/"):
            path, name = (MAP.parent / target).resolve(), text.strip("`").rpartition(".")[2]
            files = [path] if path.is_file() else [*path.rglob("*.py")]
            if path.stem != name and not any(
                re.search(rf"\b{name}\b", file.read_text()) for file in files
            ):
                elsewhere.append((text, target))
    assert elsewhere == []


def test_every_row_of_the_map_has_a_test_and_an_idea():
    rows = [
        line
        for line in MAP.read_text().splitlines()
        if line.startswith("| ") and "../tests/" in line
    ]
    assert len(rows) > 60
    for row in rows:
        idea, where, experiment, test = (cell.strip() for cell in row.strip("|").split("|"))
        assert idea, row
        assert where, row
        assert (
            experiment == "—" or "experiments.md#" in experiment or "nodules.md" in experiment
        )
        assert "::test_" in test, row


# The site


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="the site needs the extra docs")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path),
    ]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")
    index = (tmp_path / "search" / "search_index.json").read_text()
    for words in ("training.html", "api/train.html", "early stopping"):
        assert words in index
    assert 'class="mermaid"' in (tmp_path / "ideas.html").read_text()
    api = (tmp_path / "api" / "train.html").read_text()
    for name in ("fit.fit", "run", "Ratio"):
        assert f'id="dlwp_jax.train.{name}"' in api
