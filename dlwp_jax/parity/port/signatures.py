"""The arguments and results of a written method, with their types."""

from __future__ import annotations

from typing import Any

import torch

from dlwp_jax.parity.port.body import Body
from dlwp_jax.parity.port.nodes import Frame, Node


def arguments_of(frame: Frame) -> dict[str, str]:
    """The arguments of __call__ that are values of the model, with their types."""
    given = {name: value for name, value in frame.inputs.items() if isinstance(value, Node)}
    return {name: _type_of(value.value) for name, value in given.items()}


def returned_by(bodies: list[Body]) -> str:
    """The type of the result, in both modes."""
    kinds = dict.fromkeys(_type_of(_values(body.frame.output)) for body in bodies)
    return " | ".join(kinds)


def _values(output: Any) -> Any:
    if isinstance(output, Node):
        return output.value
    if isinstance(output, dict):
        return {key: _values(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return type(output)(map(_values, output))
    return output


def _type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "jax.Array"
    if isinstance(value, dict):
        kinds = dict.fromkeys(map(_type_of, value.values()))
        return f"dict[str, {' | '.join(kinds)}]"
    if isinstance(value, list):
        return f"list[{' | '.join(dict.fromkeys(map(_type_of, value)))}]"
    if isinstance(value, tuple):
        return f"tuple[{', '.join(map(_type_of, value))}]"
    return "None" if value is None else type(value).__name__
