"""Finding `kernels/`: beside this package in an installation, beside its folder in the source tree."""

from __future__ import annotations

from pathlib import Path

from vpod.errors import BuildError


def folder() -> Path:
    """The folder of kernel descriptions and archive keys; `BuildError` if the installation lacks it."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "kernels", here.parent / "kernels"):
        if (candidate / "debian-stock.toml").is_file():
            return candidate
    raise BuildError(f"{here}: this installation lacks its kernels/ folder; install vpod again")

