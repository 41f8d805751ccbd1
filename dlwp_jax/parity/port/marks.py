"""Classes of the written file while they are written: texts with marks for numbers.

A number of the model is a mark that stands for a `Slot`. Two modules with the same text but for
their numbers share a class, and the numbers in which they differ become its arguments.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from dlwp_jax.parity.port.arrays import without_scales
from dlwp_jax.parity.port.functions.common import literal

MARK = re.compile("\x02(\\d+)\x03|\x04(\\d+)\x05")


@dataclasses.dataclass(frozen=True)
class Slot:
    """A number of the model. With an option it is written `, option=value`, and not at all if
    it is the default.
    """

    name: str
    value: Any
    option: str = ""
    default: Any = None


@dataclasses.dataclass(eq=False)
class Written:
    """A class of the file.

    Attributes:
      name: in the file.
      base: what it inherits from.
      uses: (text of __init__, text of the methods) of every module that is one, with marks.
      arguments: of __call__, with their types.
      returns: the type of its result.
      text: of its first use, with numbers in the place of the marks.
      flat: the slots of every use, in the order of their marks.
      named: number of a slot -> the argument of __init__ that gives it.
    """

    name: str
    base: str
    uses: list[tuple[list[str], list[list[str]]]]
    arguments: dict[str, str]
    returns: str = "jax.Array"
    text: str = ""
    flat: list[list[Slot]] = dataclasses.field(default_factory=list)
    named: dict[int, str] = dataclasses.field(default_factory=dict)

    def parameters(self) -> dict[str, int]:
        """Arguments of __init__, each with the first slot that it gives."""
        found: dict[str, int] = {}
        for number, name in self.named.items():
            found.setdefault(name, number)
        return found


class Marks:
    """The marks of a port, and the classes they stand in."""

    def __init__(self):
        self.slots: list[Slot] = []
        self.calls: list[tuple[Written, int]] = []
        self.written: dict[tuple[Any, ...], Written] = {}

    def slot(self, name: str, value: Any, option: str = "", default: Any = None) -> str:
        """A mark for a number."""
        self.slots.append(Slot(name, value, option, default))
        return f"\x02{len(self.slots) - 1}\x03"

    def unified(self, lines: list[str]) -> list[str]:
        """The lines with one mark for all numbers that are alike, so that repetitions are."""
        first: dict[str, str] = {}

        def mark(match: re.Match[str]) -> str:
            if not match[1]:
                return match[0]
            return first.setdefault(repr(self.slots[int(match[1])]), match[0])

        return [MARK.sub(mark, line) for line in lines]

    def concrete(self, text: str) -> str:
        """A text with its numbers in the place of the marks, to be compared."""

        def value(match: re.Match[str]) -> str:
            if match[1]:
                slot = self.slots[int(match[1])]
                return f"{slot.option}={slot.value!r}"
            written, number = self.calls[int(match[2])]
            init, methods = written.uses[number]
            inside = "\n".join([*init, *("\n".join(lines) for lines in methods)])
            return f"{id(written)}({self.concrete(without_scales(inside))})"

        return MARK.sub(value, text)

    def shape_of(self, text: str) -> str:
        """A text without its numbers."""

        def kind(match: re.Match[str]) -> str:
            if match[1]:
                return f"\x02{self.slots[int(match[1])].option}\x03"
            return f"\x04{id(self.calls[int(match[2])][0])}\x05"

        return MARK.sub(kind, text)

    def resolve(self) -> None:
        """Name the arguments of every class, when all of its uses are known."""
        for written in self.written.values():
            written.flat = [self._flat(init, methods) for init, methods in written.uses]
            names: dict[tuple[str, ...], str] = {}
            for number, slot in enumerate(written.flat[0]):
                column = tuple(repr(use[number].value) for use in written.flat)
                if len(set(column)) == 1:
                    continue
                if column not in names:
                    names[column] = _free_name(slot.name, names.values())
                written.named[number] = names[column]

    def _flat(self, init: list[str], methods: list[list[str]]) -> list[Slot]:
        text = "\n".join([*init, *("\n".join(lines) for lines in methods)])
        slots: list[Slot] = []
        for match in MARK.finditer(text):
            if match[1]:
                slots.append(self.slots[int(match[1])])
            else:
                slots += self._open(int(match[2]))
        return slots

    def _open(self, number: int) -> Iterator[Slot] | list[Slot]:
        """The slots that a call of a class leaves open: the class's arguments."""
        written, use = self.calls[number]
        first = written.parameters()
        return [
            dataclasses.replace(written.flat[use][i], name=name, option="")
            for name, i in first.items()
        ]

    def render(self, written: Written) -> tuple[list[str], list[list[str]]]:
        """The lines of __init__ and of the methods of a class, without marks."""
        init, methods = written.uses[0]
        number = 0
        stored: dict[str, None] = {}

        def text(line: str, of_self: bool) -> str:
            def value(match: re.Match[str]) -> str:
                nonlocal number
                if match[1]:
                    shown = self._shown(written, number, self.slots[int(match[1])], of_self)
                    if of_self and number in written.named:
                        stored[written.named[number]] = None
                    number += 1
                    return shown
                inner, _ = self.calls[int(match[2])]
                given = []
                for name, slot in zip(
                    inner.parameters(), self._open(int(match[2])), strict=True
                ):
                    del name
                    given.append(self._shown(written, number, slot, of_self))
                    number += 1
                return f"{inner.name}({', '.join([*given, 'rngs=rngs'])})"

            return MARK.sub(value, line).replace("(, ", "(")

        init = [text(line, False) for line in init]
        methods = [[text(line, True) for line in lines] for lines in methods]
        return [*(f"self.{name} = {name}" for name in stored), *init], methods

    @staticmethod
    def _shown(written: Written, number: int, slot: Slot, of_self: bool) -> str:
        name = written.named.get(number)
        if name is None:
            text = literal(slot.value)
            if slot.option:
                return "" if slot.value == slot.default else f", {slot.option}={text}"
            return text
        name = f"self.{name}" if of_self else name
        return f", {slot.option}={name}" if slot.option else name


def _free_name(name: str, taken: Any) -> str:
    name = re.sub(r"\W", "_", name).strip("_") or "size"
    name = f"n{name}" if name[0].isdigit() else name
    number, free = 2, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free
