"""What a port cannot carry, with its place in torch's source and what to do."""

import dataclasses
import sys
from pathlib import Path
from types import CodeType, FrameType

import torch

_OWN = f"{Path(__file__).parent}/"
_TORCH = f"{Path(torch.__file__).parent}/"


@dataclasses.dataclass(frozen=True)
class Where:
    """A line of torch's source."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Refused(NotImplementedError):
    """A part of a torch model that cannot be written as source; the message is one sentence.

    Attributes:
      where: the line of the torch source, if it is known.
    """

    def __init__(self, reason: str, where: Where | None = None):
        super().__init__(f"{where}: {reason}" if where else reason)
        self.where = where


def is_users(file: str) -> bool:
    """Whether a file belongs neither to torch nor to this package."""
    return not file.startswith((_OWN, _TORCH, "<frozen", "<__array"))


def user_frame() -> FrameType | None:
    """The innermost frame that belongs neither to torch nor to this package."""
    frame = sys._getframe(1)
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None


def user_frames(outer: CodeType | None) -> list[FrameType]:
    """From the running call of `outer`, a forward, to the innermost frame; only that frame if
    there is none.
    """
    found = [frame] if (frame := user_frame()) else []
    while frame is not None and frame.f_code is not outer:
        frame = frame.f_back
        if frame is not None and is_users(frame.f_code.co_filename):
            found.append(frame)
    return found[::-1] if frame is not None else found[:1]


def here() -> Where | None:
    """The line of the model's source that is being run."""
    frame = user_frame()
    return Where(frame.f_code.co_filename, frame.f_lineno) if frame else None
