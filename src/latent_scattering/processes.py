"""Artefacts that several processes, one a device, make together."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

from latent_scattering.store import Artefact, Maker


def together(
    fabric: Fabric, kept: Callable[[Maker], Artefact], make: Maker
) -> Artefact:
    """Return ``kept(make)``, where every process makes, and the first keeps, it.

    Parameters
    ----------
    fabric
        Launched, if it has several processes; these share a file system.
    kept
        `Store.get` with all arguments but the maker.
    make
        See `Store.get`. It is called in every process, with the same folder, or in
        none if the artefact is there; it raises in all of them or in none.
    """
    if fabric.world_size == 1:
        return kept(make)
    if not fabric.is_global_zero:
        # Not by the store: the first process holds its lock while all of them make.
        folder = fabric.broadcast("")
        if folder:
            make(Path(folder))
        fabric.barrier()
        return kept(make)
    called = False

    @wraps(make)  # whose module is part of the key
    def first(folder: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        nonlocal called
        called = True
        fabric.broadcast(str(folder))
        return make(folder)

    made = kept(first)
    if not called:
        fabric.broadcast("")
    fabric.barrier()
    return made
