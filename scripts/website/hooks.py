"""The parts of the site that GitHub does not show: the README as first page, the pictures of
the experiments, and the API.

MkDocs calls the functions `on_...` by name. A link that leads out of docs/ becomes a link to
the repository, or to the API if its text is a name of the API. A link that leads nowhere is a
warning, which `--strict` makes an error.
"""

import ast
import functools
import logging
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PICTURES = ROOT / "runs" / "site"
LINK = re.compile(r"\[(?P<text>[^\]\n]*)\]\((?P<target>[^)\s]+)\)")
API_NAME = re.compile(r"`(?:dlwp_jax\.)?([a-z]\w*(?:\.\w+)*)`")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
log = logging.getLogger("mkdocs.plugins.site")


def modules() -> list[str]:
    """The public modules, without importing JAX."""
    tree = ast.parse((ROOT / "dlwp_jax" / "__init__.py").read_text())
    named = {
        node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)
    }
    return sorted(
        [*ast.literal_eval(named["__all__"]), *ast.literal_eval(named["_ON_REQUEST"])]
    )


def on_files(files, config):
    """Add the pages and files that are made here."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=readme))
    for name, content in api_pages().items():
        files.append(File.generated(config, f"api/{name}.md", content=content))
    for picture in sorted(PICTURES.glob("ch*/*.png")):
        place = f"pictures/{picture.relative_to(PICTURES)}"
        files.append(File.generated(config, place, abs_src_path=str(picture)))
    return files


def api_pages() -> dict[str, str]:
    """A page for each public module, and one that lists them."""
    summaries = {name: summary(ROOT / "dlwp_jax" / name) for name in modules()}
    rows = "\n".join(
        f"| [`dlwp_jax.{name}`]({name}.md) | {text} |" for name, text in summaries.items()
    )
    head = "# API\n\nThe public names, from their docstrings.\n\n| module | |\n| --- | --- |\n"
    pages = {"index": f"{head}{rows}\n"}
    for name in summaries:
        entries = [
            f"::: dlwp_jax.{name}\n    options: {{heading_level: 1}}\n",
            *map(_entry, apart(name)),
        ]
        pages[name] = f"---\ntitle: dlwp_jax.{name}\n---\n\n" + "\n".join(entries)
    return pages


def _entry(name: str) -> str:
    """A name that mkdocstrings documents, under the heading by which programs know it."""
    package, _, last = name.rpartition(".")
    known = package if package.endswith(f".{last}") else name
    return f"::: {name}\n    options: {{heading: {known}, toc_label: {known}}}\n"


def apart(package: str) -> list[str]:
    """The names of a package that mkdocstrings does not show under it: its public modules, and
    functions that have the name of their module.
    """
    folder = ROOT / "dlwp_jax" / package
    if not folder.is_dir():
        return []
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    imported = [
        (node.module, name.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    ]
    full = f"dlwp_jax.{package}"
    modules = [f"{full}.{name}" for module, name in imported if module == full]
    return modules + [
        f"{module}.{name}" for module, name in imported if module == f"{full}.{name}"
    ]


def documented(name: str) -> str:
    """The name under which the API page has an object: a function whose module has the same
    name has that name twice.
    """
    package, _, last = name.partition(".")
    twice = f"dlwp_jax.{name}.{last}"
    return twice if twice in apart(package) else f"dlwp_jax.{name}"


def summary(path: Path) -> str:
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition(
        "\n"
    )[0]


def on_page_markdown(markdown, page, config, files):
    """Turn links into those of the site, and put pictures and source under each experiment."""
    name = page.file.src_uri
    if name.startswith("api/"):
        return markdown
    base = ROOT if name == "index.md" else DOCS
    turn = functools.partial(_link, base=base, page=name, repository=config.extra["repository"])
    parts = FENCED.split(markdown)  # code, at the odd places, is left alone
    parts[::2] = [LINK.sub(turn, part) for part in parts[::2]]
    markdown = "".join(parts)
    if name == "experiments.md":
        markdown = re.sub(
            r"^## (ch\w+)\n(.*?)(?=^## |\Z)",
            _experiment,
            markdown,
            flags=re.MULTILINE | re.DOTALL,
        )
    return markdown


def _link(match, *, base: Path, page: str, repository: str) -> str:
    text, target = match["text"], match["target"]
    path, sign, anchor = target.partition("#")
    if "://" in target or not path:
        return match[0]
    file = (base / path).resolve()
    if not file.exists():
        log.warning("%s: [%s](%s) leads nowhere.", page, text, target)
    if file.is_relative_to(DOCS):
        return f"[{text}]({file.relative_to(DOCS)}{sign}{anchor})"
    if file == ROOT / "README.md":
        return f"[{text}](index.md{sign}{anchor})"
    if file.is_relative_to(ROOT / "dlwp_jax") and (name := API_NAME.fullmatch(text)):
        return f"[{text}][{documented(name[1])}]"
    kind = "tree" if file.is_dir() else "blob"
    return f"[{text}]({repository}/{kind}/main/{file.relative_to(ROOT)}{sign}{anchor})"


def _experiment(match) -> str:
    """A section of the experiments' page with its pictures, docstring and source."""
    name, words = match[1], match[2].rstrip()
    source = (ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source)) or ""
    details = doc.partition("\n")[2].strip()
    drawn = sorted((PICTURES / name).glob("*.png"))
    shown = [f"![{picture.stem}](pictures/{name}/{picture.name})" for picture in drawn]
    return "\n\n".join(
        [
            f"## {name}",
            words,
            *shown,
            _folded("What it writes, and what to expect", "text", details),
            _folded("The source, all of it", "python", source.rstrip()),
            "",
        ]
    )


def _folded(title: str, language: str, code: str) -> str:
    block = f"```{language}\n{code}\n```"
    return f'??? note "{title}"\n\n' + "\n".join(
        f"    {line}".rstrip() for line in block.splitlines()
    )
