"""Any experiment as a notebook: its script cut into cells, settings first, pictures last.

    python -m experiments.notebook ch05_thermometer          writes it into notebooks/
    python -m experiments.notebook ch05_thermometer --run    and runs it, and keeps the results

A notebook that exists may hold somebody's work, so it is not written again, except with
--fresh.
"""

import ast
import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated

import experiments
from dlwp_jax import terminal
from dlwp_jax.files import needs, whole
from experiments.__main__ import known, prepare

with needs("notebook"):
    import tyro


@dataclasses.dataclass(frozen=True)
class Arguments:
    name: Annotated[str, tyro.conf.Positional]  # the experiment
    run: bool = False  # run it, and keep what it prints and draws
    open: bool = False  # open it in JupyterLab, unless it is run
    fresh: bool = False  # write it again over one that exists
    out: Path = Path("notebooks")  # where notebooks are kept


def cells(source: str) -> list[str]:
    """The top level of a script in pieces: imports together, then each constant, function and
    class with its comments.

    >>> cells('import os\\nimport sys\\n\\n# rows\\nN = 3\\n\\n\\ndef f():\\n    return N\\n')
    ['import os\\nimport sys', '# rows\\nN = 3', 'def f():\\n    return N']
    """
    lines, begin = source.splitlines(), 0
    pieces, kinds = [], []
    for node in ast.parse(source).body:
        end = node.end_lineno or begin
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        kind = "imports" if is_import else type(node)
        if kinds and kind == kinds[-1] and kind in ("imports", ast.Assign, ast.AnnAssign):
            begin, _ = pieces.pop()
        pieces, kinds, begin = [*pieces, (begin, end)], [*kinds, kind], end
    return ["\n".join(lines[begin:end]).strip("\n") for begin, end in pieces]


def convert(name: str):
    """The notebook of an experiment, an `nbformat` node."""
    with needs("notebook"):
        from nbformat import v4
    source = (Path(experiments.__path__[0]) / f"{name}.py").read_text(encoding="utf-8")
    docstring, *code = cells(source)
    title, _, text = ast.literal_eval(docstring).partition("\n")
    last = "\n".join(
        (
            "from IPython.display import Image, display",
            "",
            f'for picture in sorted((config.out / "{name}").glob("*.png")):',
            "    display(Image(picture))",
        )
    )
    head = v4.new_markdown_cell(f"# {title}\n\n```text\n{text.strip()}\n```")
    asked = v4.new_code_cell(
        "config = Config()  # change a setting here: Config(seed=1)\nmain(config)"
    )
    node = v4.new_notebook(
        cells=[head, *map(v4.new_code_cell, code), asked, v4.new_code_cell(last)]
    )
    for number, cell in enumerate(node.cells):
        # Random by default; this way the same script gives the same file.
        cell.id = f"{name}-{number}"
    node.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    return node


def main(asked: Arguments) -> Path:
    """Write a notebook, and run it if `asked.run` is true."""
    import nbformat

    path = asked.out / f"{known(asked.name)}.ipynb"
    if asked.fresh or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save(convert(asked.name), path)
    if asked.run:
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError

        prepare()  # the kernel inherits where compiled programs are kept
        try:
            node = nbformat.read(path, as_version=4)
        except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
            sys.exit(
                f"{path} is no notebook ({str(error).splitlines()[0]}); --fresh writes it anew."
            )
        try:
            # By default a cell's output is waited for 4 seconds: a busy machine loses pictures.
            where = {"metadata": {"path": str(path.parent)}}
            NotebookClient(
                node, resources=where, startup_timeout=300, iopub_timeout=300
            ).execute()
        except CellExecutionError as error:
            sys.exit(f"{path}: {error}")
        save(node, path)
    print(f"{path} has the results" if asked.run else f"{path} is ready")
    if asked.open and not asked.run:
        os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(path)])
    return path


def save(node, path: Path) -> None:
    import nbformat

    with whole(path) as partial:
        nbformat.write(node, partial)


if __name__ == "__main__":
    with terminal.output():
        main(
            tyro.cli(
                Arguments,
                prog="notebook",
                description=__doc__,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        )
