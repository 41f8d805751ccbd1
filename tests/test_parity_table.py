"""docs/parity.md is whole: a row for every public name, or a reason; tests for every
difference.
"""

import ast
import importlib.util
import inspect
import re

from flax import nnx

from dlwp_jax import losses, nn, optim
from dlwp_jax.parity.port.layers import LAYERS
from tests.conftest import ROOT


def load(name):
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "scripts" / "parity" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES, DIFFERENCES = load("cases"), load("differences")
PAGE = (ROOT / "docs" / "parity.md").read_text()


def plain(name):
    """One spelling for torch's names and ours: StepLR, step_lr; clip_grad_norm_."""
    return name.replace("_", "").lower()


def rows():
    """The names in the first table of the page."""
    return {
        re.match(r"\w+", case)[0]
        for case in re.findall(r"^\| \w+ \| `([^`]*)`", PAGE, re.MULTILINE)
    }


def public():
    names = {name: getattr(nn, name) for name in dir(nn)}  # with those of dlwp_jax.models
    layers = [
        n for n, made in names.items() if inspect.isclass(made) and issubclass(made, nnx.Module)
    ]
    functions = [
        n
        for n, made in names.items()
        if callable(made) and not inspect.isclass(made) and n[0] != "_"
    ]
    optimizers = [n for n in optim.__all__ if not n.endswith("State")]  # a state is no rule
    return [*layers, *functions, *losses.__all__, *optimizers]


def test_every_public_layer_loss_optimizer_and_schedule_has_a_row_or_a_reason():
    listed = {
        plain(name) for name in rows()
    }  # activations and their layers are one spelling: ReLU, relu
    missing = [
        name
        for name in public()
        if plain(name) not in listed and name not in CASES.WITHOUT_A_ROW
    ]
    assert not missing
    assert not [
        name for name in CASES.WITHOUT_A_ROW if name not in public() or plain(name) in listed
    ]


def test_every_layer_that_a_port_is_written_with_has_a_row_or_a_reason():
    listed = {plain(name) for name in (*rows(), *CASES.WITHOUT_A_ROW)}
    assert [name for name in LAYERS if plain(name) not in listed] == []


def test_the_page_is_that_of_the_cases():
    """Run scripts/parity_table after a change of the cases."""
    shown = re.findall(r"^\| \w+ \| `([^`]*)`", PAGE, re.MULTILINE)
    names = [text for text, _ in CASES.LAYERS] + [
        name for name, *_ in (*CASES.LOSSES, *CASES.OPTIMIZERS)
    ]
    assert [name for name in [*names, *CASES.SCHEDULES] if name not in shown] == []
    measured = re.findall(
        r"\| (\S+) \| (\S+) \| [^|]+ \|$", PAGE.split("## Where")[0], re.MULTILINE
    )
    errors = [(float(error), float(tolerance)) for error, tolerance in measured[2:]]
    assert len(errors) == len(shown)
    assert all(error <= tolerance for error, tolerance in errors)


def test_every_difference_from_the_jax_side_names_tests_that_exist():
    for what, *_, tests in DIFFERENCES.ROWS:
        assert f"| {what} |" in PAGE
        assert tests
        for test in tests:
            file, name = test.split("::")
            tree = ast.parse((ROOT / "tests" / f"test_{file}.py").read_text())
            assert name in {
                node.name for node in tree.body if isinstance(node, ast.FunctionDef)
            }, test
