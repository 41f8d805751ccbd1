"""Named data sets on the command line.

python -m dlwp_jax.data list           list the data sets, and which are here
python -m dlwp_jax.data fetch NAME     bring one
python -m dlwp_jax.data path [NAME]    print the path of the data root, or of one data set
"""

import sys
from typing import Annotated

from dlwp_jax import terminal
from dlwp_jax.data import sources
from dlwp_jax.data.fetch import data_root
from dlwp_jax.data.files import needs

with needs():
    import tyro


def show() -> None:
    """List the data sets: size, licence, source, stand-in, and whether they are here."""
    root = data_root()
    for source in sources.SOURCES.values():
        if not source.path:
            state = "embedded"
        elif (root / source.path).exists():
            state = "here"
        else:
            state = "can be fetched" if source.remotes else "by path"
        print(f"{source.name}  [{state}]  {source.what}")
        print(f"    {source.size}; licence: {source.licence}; from {source.address}")
        if source.stand_in:
            print(f"    embedded stand-in: {source.stand_in}")


def bring(name: Annotated[str, tyro.conf.Positional]) -> None:
    """Fetch a data set into the data root, or say where to put it.

    Args:
      name: as in the list.
    """
    print(sources.place(name))


def where(name: Annotated[str, tyro.conf.Positional] = "") -> None:
    """Print the path of the data root, or of one data set.

    Args:
      name: as in the list; without one, the root.
    """
    print(data_root() / sources.find(name).path if name else data_root())


def main(arguments: list[str] | None = None) -> None:
    """Run one of the commands; an error is one sentence on stderr and exit status 1."""
    commands = {"list": show, "fetch": bring, "path": where}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m dlwp_jax.data", args=arguments
        )
    except BrokenPipeError:
        raise  # nobody reads the output; terminal.output ends quietly
    except (OSError, ValueError) as error:  # a FetchError, or a root that cannot be written
        sys.exit(str(error))


if __name__ == "__main__":
    with terminal.output():
        main()
