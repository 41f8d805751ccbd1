"""Lines of Python broken to 96 columns, as ruff and black break them."""

WIDTH = 96
_OPEN, _CLOSE = "([{", ")]}"


def broken(line: str, indent: int) -> list[str]:
    """A statement on one line, or on several if it is too long.

    >>> print(*broken("return function(" + "argument, " * 7 + "argument)", 4), sep="\\n")
        return function(
            argument, argument, argument, argument, argument, argument, argument, argument
        )
    """
    text = " " * indent + line
    if len(text) <= WIDTH:
        return [text]
    if line.startswith("return ") and len(_split_at_commas(line[7:])) > 1:
        return broken(f"return ({line[7:]})", indent)
    pair = _outer_brackets(line, WIDTH - indent)
    if pair is None:
        return [text]
    start, end = pair
    head, inside, tail = line[: start + 1], line[start + 1 : end], line[end:]
    parts = _split_at_commas(inside)
    one = " " * (indent + 4) + inside.strip()
    if (len(one) <= WIDTH) or len(parts) == 1:
        body = broken(inside.strip(), indent + 4)
    else:
        body = []
        for part in parts:
            lines = broken(part, indent + 4)
            body += [*lines[:-1], lines[-1] + ","]
    closed = broken(tail, indent) if len(tail) > WIDTH - indent else [" " * indent + tail]
    return [" " * indent + head, *body, *closed]


def _outer_brackets(line: str, room: int) -> tuple[int, int] | None:
    """The last outer brackets that are not empty and open in reach; else the first."""
    depth, quote, start = 0, "", 0
    pairs: list[tuple[int, int]] = []
    for i, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in _OPEN:
            start = i if depth == 0 else start
            depth += 1
        elif char in _CLOSE:
            if depth == 1 and i > start + 1:
                pairs.append((start, i))
            depth = max(depth - 1, 0)  # a line may begin with a closing bracket
    fitting = [pair for pair in pairs if pair[0] < room and line[pair[1] :].strip(")]},") == ""]
    in_reach = [pair for pair in pairs if pair[0] < room]
    return (fitting or in_reach[-1:] or pairs[:1] or [None])[-1]


def _split_at_commas(text: str) -> list[str]:
    parts, depth, quote, start = [], 0, "", 0
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [part for part in [*parts, text[start:].strip()] if part]
