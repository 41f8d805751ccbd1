"""Which parts of a model stay in eval mode while it is trained."""

from typing import Any

from flax import nnx

FLAGS = ("deterministic", "use_running_average")  # model.eval() sets them on any module


def kept_in_eval(model: nnx.Module, trainable: Any) -> list[tuple[nnx.Module, str]]:
    """The flags that training leaves in eval mode, as their owner has set them.

    If only parts of the model are in eval mode, these parts stay in it. If all of it is, which
    may be left over from an evaluation, those parts stay whose parameters are all frozen.

    Args:
      trainable: the NNX filter that chooses the trained leaves.

    Returns:
      The modules, each with the name of its flag.

    >>> model = nnx.Sequential(nnx.BatchNorm(2, rngs=nnx.Rngs(0)), nnx.Dropout(0.5))
    >>> model.layers[0].eval()
    >>> [name for _, name in kept_in_eval(model, nnx.Param)]
    ['use_running_average']
    >>> model.eval()
    >>> kept_in_eval(model, nnx.Param)
    []
    """
    flags = []
    for path, module in nnx.iter_modules(model):
        flags.extend((path, module, name) for name in FLAGS if hasattr(module, name))
    in_eval = [flag for flag in flags if getattr(flag[1], flag[2]) is True]
    in_training = [flag for flag in flags if getattr(flag[1], flag[2]) is False]
    if not in_training:
        frozen = _frozen(model, trainable)
        in_eval = [flag for flag in in_eval if _prefixes(flag[0]) & frozen]
    return [(module, name) for _, module, name in in_eval]


def _frozen(model: nnx.Module, trainable: Any) -> set[tuple]:
    """The paths of the parts that have parameters, none of which is trained."""
    chosen, others = nnx.split_state(nnx.state(model), trainable, ...)
    trained, frozen = set(), set()
    for path, _ in nnx.to_flat_state(chosen):
        trained |= _prefixes(path)
    for path, variable in nnx.to_flat_state(others):
        if isinstance(variable, nnx.Param):
            frozen |= _prefixes(path)
    return frozen - trained


def _prefixes(path: tuple) -> set[tuple]:
    return {path[:i] for i in range(1, len(path) + 1)}
