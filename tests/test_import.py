"""What an import brings along: `import dlwp_jax` nothing, its modules no more than they
need.
"""

import subprocess
import sys
import tomllib

import dlwp_jax
from tests.conftest import ROOT

# What only some module or function needs, and imports when it is used.
OPTIONAL = (
    "av",
    "grain",
    "matplotlib",
    "pandas",
    "PIL",
    "pooch",
    "pydicom",
    "SimpleITK",
    "sklearn",
    "torch",
    "tyro",
)


def loaded(statement):
    """The top-level modules that a statement adds to a fresh interpreter."""
    code = (
        f"import sys; before = set(sys.modules)\n{statement}\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_package_itself_imports_nothing():
    assert loaded("import dlwp_jax; dir(dlwp_jax)") - sys.stdlib_module_names == {"dlwp_jax"}


def test_its_modules_import_no_more_than_they_need():
    found = loaded(f"import dlwp_jax; [getattr(dlwp_jax, name) for name in {dlwp_jax.__all__}]")
    assert {"flax", "optax"} <= found
    assert not found.intersection(OPTIONAL)


def test_parity_is_there_on_request():
    assert "parity" in dir(dlwp_jax)
    assert "torch" in loaded("import dlwp_jax; dlwp_jax.parity")


def test_an_installation_brings_the_library_alone():
    """`experiments`, `tests` and `scripts` are names of folders that users have themselves."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["packages"] == ["dlwp_jax"]
    assert build["dev-mode-exact"] is True  # the same for `pip install -e`
