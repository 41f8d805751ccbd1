"""Writes the pages: short pairs as rows of a table, longer ones as blocks side by side."""

from collections.abc import Iterator
from pathlib import Path

from scripts.rosetta import torch_nn
from scripts.rosetta.pairs import Group, Pair, book_names, read

# How many torch names the book's chapters and their programs use.
BOOK_NAMES = 172
WIDTH = 60
# GitHub reads Markdown between the tags after a blank line; Python-Markdown's md_in_html asks
# for the attribute.
TABLE = '<table markdown="1">'

HEAD = """# From torch to JAX, name by name

Written by `scripts/torch_names` from `scripts/rosetta/cells`; \
`tests/test_rosetta.py` runs both halves of every pair
and compares values, shapes, dtypes, and gradients where torch has them: \
**{covered} of the {total}** torch names that
*Deep Learning with PyTorch* uses.

Three things hold for every line:

- **Integers are int32 and floats float32**, where torch has int64 (and float64 from NumPy): \
JAX switches 64 bits off
  until they are asked for.
- **Nothing changes in place.** A line of torch that ends in `_` becomes one \
that gives its result a name.
- **Images are channels last**, `[N H W C]`, where torch has `[N C H W]`. \
Values that are images are turned before
  they are compared.

{index}

## {inputs_title}

{inputs}
"""


def render(groups: list[Group]) -> str:
    """The page, in Markdown."""
    inputs = read("inputs")
    blocks = "\n".join([TABLE, *_halves(*inputs.pairs), "</table>"])
    index = "\n".join(
        ["| | names |", "| --- | --- |", *(_index_row(group) for group in groups)]
    )
    head = HEAD.format(
        covered=len(book_names(groups)),
        total=BOOK_NAMES,
        index=index,
        inputs_title=inputs.title,
        inputs=blocks,
    )
    return head + "".join(_section(group) for group in groups) + torch_nn.section()


def _index_row(group: Group) -> str:
    names = dict.fromkeys(name for pair in group.pairs for name in pair.names)
    links = ", ".join(f"[`{_short(name)}`](#{name})" for name in sorted(names, key=_short))
    return f"| **[{group.title}](#{group.title.lower().replace(' ', '-')})** | {links} |"


def _short(name: str) -> str:
    for prefix, short in (
        ("torch.nn.functional.", "F."),
        ("torch.nn.utils.rnn.", ""),
        ("torch.nn.utils.parametrizations.", ""),
        ("torch.nn.utils.parametrize.", ""),
        ("torch.nn.utils.", ""),
        ("torch.nn.", "nn."),
        ("torch.Tensor.", "Tensor."),
        ("torch.utils.data.", ""),
        ("torchvision.", ""),
    ):
        if name.startswith(prefix):
            return short + name.removeprefix(prefix)
    return name


def _section(group: Group) -> str:
    short = [pair for pair in group.pairs if _is_short(pair)]
    long = [pair for pair in group.pairs if not _is_short(pair)]
    parts = [f"\n## {group.title}\n", f"{group.words}\n"]
    if short:
        parts += [
            "| torch | JAX | where they differ |",
            "| --- | --- | --- |",
            *map(_row, short),
            "",
        ]
    if long:
        parts += [TABLE, *(line for pair in long for line in _block(pair)), "</table>", ""]
    return "\n".join(parts)


def _is_short(pair: Pair) -> bool:
    return all("\n" not in code and len(code) <= WIDTH for code in (pair.torch, pair.jax))


def _anchors(pair: Pair) -> str:
    return "".join(f'<a id="{name}"></a>' for name in pair.names)


def _row(pair: Pair) -> str:
    cells = (pair.torch, pair.jax, pair.why)
    torch_code, jax_code, why = (cell.replace("|", "\\|") for cell in cells)
    return f"| {_anchors(pair)}`{torch_code}` | `{jax_code}` | {why} |"


def _block(pair: Pair) -> Iterator[str]:
    names = ", ".join(f"**`{_short(name)}`**" for name in pair.names)
    words = f"{names}: {pair.why}" if pair.why else names
    yield from (
        '<tr markdown="1"><td colspan="2" markdown="block">',
        "",
        words + _anchors(pair),
        "",
        "</td></tr>",
    )
    yield from _halves(pair)


def _halves(pair: Pair) -> Iterator[str]:
    """A row with torch's code on the left and ours on the right."""
    yield '<tr markdown="1"><td valign="top" markdown="block">'
    yield from (
        "",
        "```python",
        pair.torch,
        "```",
        "",
        '</td><td valign="top" markdown="block">',
    )
    yield from ("", "```python", pair.jax, "```", "", "</td></tr>")


BITES = """# {title}

Written by `scripts/torch_names` from `scripts/rosetta/cells`; \
`tests/test_rosetta.py` runs all of it, and checks that the
first JAX gives other numbers than torch and that the second gives the same. \
If JAX is new to you, read
[JAX in ten minutes](jax_in_ten_minutes.md) first. \
torch's other names: [name by name](torch_to_jax.md). How near
each layer, loss and optimizer comes to torch: [parity](parity.md).

{words}

## The inputs

To try the lines below, type this in first: \
the torch lines in one session, the JAX lines in another, since `nn` is
torch's in one and ours in the other.

```python
{torch_inputs}
```

```python
{jax_inputs}
```
"""


def render_bites(bites: Group, quiet: Group) -> str:
    """The page of differences that raise no error: ten that are numbered, then the others."""
    torch_inputs, jax_inputs = standalone_inputs()
    head = BITES.format(
        title=bites.title, words=bites.words, torch_inputs=torch_inputs, jax_inputs=jax_inputs
    )
    numbered = "".join(
        _bite(f"## {number}. ", pair) for number, pair in enumerate(bites.pairs, 1)
    )
    rest = "".join(_bite("### ", pair) for pair in quiet.pairs)
    book = (Path(__file__).parent / "book_code.md").read_text(encoding="utf-8")
    return f"{head}{numbered}\n## {quiet.title}\n\n{quiet.words}\n{rest}{book}"


def standalone_inputs() -> tuple[str, str]:
    """The inputs of torch's lines and of JAX's, each of which runs in a session of its own.

    Beside torch the JAX inputs are its numbers; alone they are numbers of the same shapes.
    """
    (inputs,) = read("inputs").pairs
    shared = next(line for line in inputs.jax.splitlines() if line.startswith("# x, y, p"))
    return inputs.torch, inputs.jax.replace(shared, ALONE)


# Inputs of the shapes that scripts/rosetta/cells/inputs.py has for torch.
ALONE = """rng = np.random.default_rng(0)
x, y = jnp.float32(rng.normal(size=(2, 3, 4)))
p = jnp.float32(rng.random((3, 4))) + 0.1  # positive
z = jnp.float32(rng.normal(size=(2, 3, 4)))
index = jnp.array([[0], [2], [1]])
labels = jnp.array([1, 0, 3])
images = jnp.float32(rng.normal(size=(2, 3, 8, 8)))  # as torch has them: [N C H W]
volumes = jnp.float32(rng.normal(size=(2, 3, 4, 4, 4)))"""


def _bite(heading: str, pair: Pair) -> str:
    torch_block, bites, ours = (
        f"\n```python\n{code}\n```\n" for code in (pair.torch, pair.bites, pair.jax)
    )
    cells = (
        f"**torch**\n{torch_block}",
        f"**JAX: other numbers**\n{bites}\n**JAX: torch's numbers**\n{ours}",
    )
    columns = "\n</td>".join(f'<td valign="top" markdown="block">\n\n{cell}' for cell in cells)
    return f"""
{heading}{pair.names[0]}

{pair.why}

{TABLE}
<tr markdown="1">{columns}
</td></tr>
</table>
"""
