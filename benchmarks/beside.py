"""Run the code of this checkout with the package ``ssestream`` of another checkout."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def package_in(checkout: Path) -> Path:
    """The folder of the package in *checkout*; `ValueError` if there is none."""
    package = checkout.resolve() / "ssestream"
    if not (package / "__init__.py").is_file():
        raise ValueError(f"{checkout} is no checkout of this project: it has no ssestream/")
    return package


def link(folder: Path, checkout: Path) -> None:
    """Let a Python program that is started in *folder* import the package of *checkout*.

    The other checkout has a folder ``benchmarks`` too. So only its package may be found, and
    not the checkout.
    """
    (folder / "ssestream").symlink_to(package_in(checkout))


def search_path(*first: Path) -> str:
    """A value of ``PYTHONPATH`` that finds *first*, then the usual path, then this checkout."""
    usual = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([*map(str, first), *filter(None, usual), str(ROOT)])
