"""Lines of Python broken to 96 columns, as ruff and black break them."""

WIDTH = 96
_OPEN, _CLOSE = "([{", ")]}"


def broken(line: str, indent: int) -> list[str]:
    """A statement on one line, or on several if it is too long.

    >>> broken("return function(" + "argument, " * 9 + "argument)", 4)[1]
    '        argument, argument, argument, argument, argument, argument, argument, argument, argument, argument'
    """
    text = " " * indent + line
    if len(text) <= WIDTH:
        return [text]
    pair = _outer_brackets(line)
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


def _outer_brackets(line: str) -> tuple[int, int] | None:
    """The last brackets at the outer level that are not empty."""
    depth, quote, start, found = 0, "", 0, None
    for i, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in _OPEN:
            start = i if depth == 0 else start
            depth += 1
        elif char in _CLOSE:
            depth -= 1
            if depth == 0 and i > start + 1:
                found = (start, i)
    return found


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
