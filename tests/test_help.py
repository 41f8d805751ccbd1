"""help() of every public name: one sentence first, every argument known and spoken of."""

import inspect
import re

import pytest
from flax import nnx

import dlwp_jax
from dlwp_jax import models, nn, storage

PACKAGES = (*dlwp_jax.__all__, "parity")


def exported(package):
    """The public names of a package: those it lists, or those made in it."""
    listed = getattr(package, "__all__", None)
    if listed is not None:
        return {name: getattr(package, name) for name in listed}
    return {
        name: value
        for name, value in vars(package).items()
        if not name.startswith("_")
        and f"{getattr(value, '__module__', '')}.".startswith(f"{package.__name__}.")
    }


def shown(package):
    """(name, value, docstrings that speak for it) of each public function, class, method and
    property.
    """
    for name, value in exported(package).items():
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        yield name, value, [inspect.getdoc(value) or ""]
        for member, attribute in vars(value).items() if inspect.isclass(value) else ():
            function = getattr(attribute, "fget", None) or getattr(
                attribute, "__func__", attribute
            )
            if (
                inspect.isfunction(function)
                and (member == "__call__" or member[0] != "_")
                and not member.startswith("tree_")
            ):
                yield (
                    f"{name}.{member}",
                    function,
                    [inspect.getdoc(function) or "", inspect.getdoc(value) or ""],
                )


CASES = [
    pytest.param(package, name, value, docs, id=f"{short}.{name}")
    for short in PACKAGES
    for package in [getattr(dlwp_jax, short)]
    for name, value, docs in shown(package)
]


def arguments(value):
    if isinstance(value, type) and issubclass(value, BaseException):
        return []
    return [
        name
        for name in inspect.signature(value).parameters
        if name not in ("self", "cls") and name[0] != "_"
    ]


def spoken_for(package, value, docs):
    """The text in which an argument may be explained: the docstring, those it refers to, and
    its module's.
    """
    names, texts, waiting = exported(package), [], list(docs)
    while waiting:
        text = waiting.pop()
        texts.append(text)
        for name in re.findall(r"`(\w+)`", text):
            below = inspect.getdoc(names[name]) if callable(names.get(name)) else None
            if below and below not in texts:
                waiting.append(below)
    module = inspect.getmodule(value)
    return "\n".join([*texts, package.__doc__ or "", (module and module.__doc__) or ""])


def test_many_names_are_looked_at():
    assert len(CASES) > 400
    assert {case.id.split(".")[0] for case in CASES} == set(PACKAGES)


@pytest.mark.parametrize(
    "layer",
    [
        value
        for package in (nn, models)
        for value in exported(package).values()
        if inspect.isclass(value)
    ],
)
def test_a_layer_shows_its_arguments(layer):
    wanted = (
        []
        if layer.__init__ is object.__init__
        else list(inspect.signature(layer.__init__).parameters)[1:]
    )
    assert list(inspect.signature(layer).parameters) == wanted
    assert inspect.signature(layer.__call__).return_annotation is not inspect.Signature.empty


def test_the_arguments_are_those_of_the_class_itself():
    class Own(nn.Sequential):
        def __init__(self, width: int):
            super().__init__(nn.Linear(width, width, rngs=nnx.Rngs(0)))

    assert list(inspect.signature(Own).parameters) == ["width"]
    assert list(inspect.signature(Own(3)).parameters) == ["x"]


def test_a_view_shows_the_layout_s_arguments_and_words():
    assert list(inspect.signature(storage.StridedTensor.permute).parameters) == ["self", "dims"]
    assert inspect.getdoc(storage.StridedTensor.narrow) == inspect.getdoc(storage.Layout.narrow)


@pytest.mark.parametrize(("package", "name", "value", "docs"), CASES)
def test_help_reads_well(package, name, value, docs):
    first = docs[0].split("\n\n")[0]
    assert first.endswith((".", "?", ":")), f"the first paragraph is no sentence: {first!r}"
    names = arguments(value)
    if len(names) < 2 or re.search(
        r"torch\.Tensor\.\w+", docs[0]
    ):  # a method of torch's, with torch's arguments
        return
    text = spoken_for(package, value, docs)
    silent = [
        argument for argument in names if not re.search(rf"\b{re.escape(argument)}\b", text)
    ]
    assert not silent, f"help({name}) does not say what {', '.join(silent)} is"
