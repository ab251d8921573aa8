"""Where things are. No other file knows a path."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "runs"
BOOK = ROOT / "book"
LOCK = ROOT / "requirements.lock"


def cache() -> Path:
    """Return the folder of the artefacts: ``$LATENT_SCATTERING_CACHE`` or ``cache``."""
    return Path(os.environ.get("LATENT_SCATTERING_CACHE", ROOT / "cache")).resolve()


def data() -> Path:
    """Return the folder of the data sets: ``$LATENT_SCATTERING_DATA`` or ``data``."""
    return Path(os.environ.get("LATENT_SCATTERING_DATA", ROOT / "data")).resolve()
