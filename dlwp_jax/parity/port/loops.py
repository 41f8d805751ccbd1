"""Lines drawn together: `x = self.blocks[0](x)`, `x = self.blocks[1](x)`, ... as a loop, and
`b = x.shape[0]`, `t = x.shape[1]` as one line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

_NUMBER = re.compile(r"(?<=\[)\d+(?=\])|(?<=[a-z_])\d+(?=\()")
LONGEST = 12


def folded(lines: list[str], lengths: Mapping[str, int] = MappingProxyType({})) -> list[str]:
    """The lines, with repetitions of up to twelve lines as loops.

    Repetitions may differ in numbers in brackets that grow or shrink by one each time.

    Args:
      lines: of a method.
      lengths: of the lists of layers, by their text.

    >>> lines = ["x = self.blocks[0](x)", "x = self.blocks[1](x)", "return x"]
    >>> folded(lines, {"self.blocks": 2})
    ['for block in self.blocks:', '    x = block(x)', 'return x']
    """
    found = _folded(lines, lengths)
    last = re.match(r"(\w+) = ", lines[-2]) if len(lines) > 2 else None
    if last is None or not lines[-1].startswith("return "):
        return found
    value = lines[-1].removeprefix("return ")
    named = [*lines[:-1], f"{last[1]} = {value}", f"return {last[1]}"]
    longer = _folded(named, lengths)  # the last repetition may be what is returned
    return longer if len(longer) <= len(found) else found


def _folded(lines: list[str], lengths: Mapping[str, int]) -> list[str]:
    found: list[str] = []
    i = 0
    while i < len(lines):
        size, times = _repetition(lines[i:])
        if times < 2:
            found.append(lines[i])
            i += 1
            continue
        found += _loop(lines[i : i + size * times], size, times, lengths)
        i += size * times
    return found


def _repetition(lines: list[str]) -> tuple[int, int]:
    """The block of lines ahead that is repeated most, and how often."""
    best = (1, 1)
    for size in range(1, min(LONGEST, len(lines) // 2) + 1):
        first = lines[:size]
        times = 1
        while lines[size * times : size * (times + 1)] and _is_next(
            first, lines[size * times : size * (times + 1)], times
        ):
            times += 1
        if times > 1 and size * times > best[0] * best[1]:
            best = (size, times)
    return best


def _is_next(first: list[str], other: list[str], times: int) -> bool:
    if len(first) != len(other):
        return False
    a, b = "\n".join(first), "\n".join(other)
    if _NUMBER.sub("#", a) != _NUMBER.sub("#", b):
        return False
    pairs = zip(map(int, _NUMBER.findall(a)), map(int, _NUMBER.findall(b)), strict=True)
    steps = [n - m for m, n in pairs]
    return any(step == times for step in steps) and set(steps) <= {0, times, -times}


def _loop(lines: list[str], size: int, times: int, lengths: Mapping[str, int]) -> list[str]:
    first, second = "\n".join(lines[:size]), "\n".join(lines[size : 2 * size])
    pairs = zip(_NUMBER.finditer(first), _NUMBER.findall(second), strict=True)
    moving = [m for m, n in pairs if m[0] != n]
    starts = [m[0] for m in moving]
    places = iter(zip(_NUMBER.finditer(first), _NUMBER.finditer(second), strict=True))
    containers = set(re.findall(r"self(?:\.\w+|\['\w+'\])+(?=\[\d)", first))
    whole = len(containers) == 1 and starts and len(set(starts)) == 1
    container = containers.pop() if whole else ""
    indexed = f"{container}[{starts[0]}]" if whole else ""
    outermost = all(first[: m.start() - 1].endswith(container) for m in moving)
    every = whole and outermost and first.count(indexed) == len(starts)
    if every:
        item = _singular(container)
        if not re.search(rf"\b{item}\b", first):
            begin = int(starts[0])
            end = "" if begin + times == lengths.get(container) else str(begin + times)
            text = first.replace(indexed, item)
            over = f"{container}[{begin or ''}:{end}]" if begin or end else container
            return [f"for {item} in {over}:", *(f"    {line}" for line in text.split("\n"))]
    pieces, at = [], 0
    for a, b in places:
        pieces.append(first[at : a.start()])
        begin = int(a[0])
        moved = int(b[0]) != begin
        index = "i" if begin == 0 else f"i + {begin}"
        index = index if int(b[0]) > begin else f"{begin} - i"
        name = re.search(r"self\.(\w+)$", pieces[-1])
        if moved and name and first[a.start() - 1] != "[":
            pieces[-1] = pieces[-1][: name.start()]
            pieces.append(f'getattr(self, f"{name[1]}{{{index}}}")')
            at = a.end()
            continue
        pieces.append(index if moved else a[0])
        at = a.end()
    pieces.append(first[at:])
    body = "".join(pieces).split("\n")
    return [f"for i in range({times}):", *(f"    {line}" for line in body)]


def _singular(container: str) -> str:
    name = re.split(r"\W+", container.rstrip("']"))[-1]
    if name.endswith(("sses", "xes", "ches", "shes")):
        return name[:-2]
    if name.endswith("s") and not name.endswith("ss") and len(name) > 2:
        return name[:-1]
    return "layer" if name != "layer" else "block"


def unpacked(lines: list[str], ndims: dict[str, set[int]]) -> list[str]:
    """b = x.shape[0]; t = x.shape[1] as b, t = x.shape[:2].

    Args:
      lines: of a method.
      ndims: how many axes arrays of each name have.
    """
    pattern = re.compile(r"(\w+) = (\w+)\.shape\[(-?\d)\]")
    found, i = [], 0
    while i < len(lines):
        run: list[re.Match[str]] = []
        while (i + len(run) < len(lines)) and (match := pattern.fullmatch(lines[i + len(run)])):
            if (run and match[2] != run[0][2]) or match[1] == match[2]:
                break
            run.append(match)
        axes = [int(match[3]) for match in run]
        owner = run[0][2] if run else ""
        every = ndims.get(owner) == {len(run)}
        if len(run) > 1 and axes == list(range(len(run))):
            names = ", ".join(m[1] for m in run)
            found.append(f"{names} = {owner}.shape{'' if every else f'[:{len(run)}]'}")
        elif every and axes == [0, -1, *range(1, len(run) - 1)] and len(run) > 2:
            n, c, *spatial = (m[1] for m in run)
            found.append(f"{', '.join([n, *spatial, c])} = {owner}.shape")
        elif run:
            found += [m[0] for m in run]
        else:
            found.append(lines[i])
        i += max(len(run), 1)
    return found
