"""Published times of training generative models: a table, checked row by row.

The table is ``training_times.csv`` beside this file. Of a paper's own table it keeps
the values as they are printed; what is empty is not stated.
"""

import csv
import hashlib
import math
import re
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from latent_scattering.errors import DataError

FILE = Path(__file__).with_suffix(".csv")
SHA256 = "ea2e5d10b991d943cca50dc9183fe88822f42da8db15bbe6bd2b2193e6aeff0c"

UNITS = {"wk": 168.0, "d": 24.0, "h": 1.0, "min": 1 / 60}  # in hours
PART = re.compile(rf"(\d+(?:\.\d+)?) ({'|'.join(UNITS)})")
SIDES = re.compile(r"\d+(x\d+)*")


def hours(duration: str) -> float:
    """Return the hours of a duration such as ``27 h 45 min``; NaN of nothing.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    if not duration:
        return math.nan
    if not re.fullmatch(rf"{PART.pattern}( {PART.pattern})*", duration):
        raise ValueError(f"{duration!r}: durations like '27 h 45 min' are wanted")
    return sum(float(value) * UNITS[unit] for value, unit in PART.findall(duration))


class Row(BaseModel):
    """One training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    """Unique."""
    label: Annotated[str, Field(min_length=1)]
    """Shown in figures."""
    table: Literal["paper", "added"]
    """Whether it is a row of Ziomek & Farrahi's Table 4."""
    source: Annotated[str, Field(min_length=1)]
    """Authors and year."""
    dataset: Annotated[str, Field(min_length=1)]
    dimensions: str
    """Of one example, like 128x128x3."""
    task: Annotated[str, Field(min_length=1)]
    family: Literal["VAE", "GAN", "diffusion", "two stages"]
    method: Annotated[str, Field(min_length=1)]
    generative: str
    """Time of the generative training, like ``27 h 45 min``."""
    non_generative: str
    """Time of a training that is not generative and must precede it."""
    seen: Annotated[float, Field(gt=0)] | None
    """Images that the generative training visits, in millions, all epochs."""
    devices: Annotated[int, Field(ge=1)] | None
    device: str
    peak: Annotated[float, Field(gt=0)] | None
    """Of one device, in TFLOP/s of single precision: 2 × units × highest clock (V100:
    5,120 × 1.53 GHz, the SXM module; GTX 1080 Ti: 3,584 × 1.58 GHz)."""
    reference: Annotated[str, Field(min_length=1)]
    """An address, or a place in a paper."""
    confirmed: Literal["yes", "no"]
    """Whether the time was found in the reference itself."""
    note: str

    @field_validator("seen", "devices", "peak", mode="before")
    @classmethod
    def _empty(cls, value: str) -> str | None:
        return value or None

    @field_validator("dimensions")
    @classmethod
    def _sides(cls, value: str) -> str:
        if not SIDES.fullmatch(value):
            raise ValueError(f"{value!r}: sides like 128x128x3 are wanted")
        return value

    @field_validator("generative", "non_generative")
    @classmethod
    def _duration(cls, value: str) -> str:
        hours(value)
        return value


def load(file: Path = FILE) -> pd.DataFrame:
    """Return the rows, with ``hours``, ``hours_before`` and ``values`` besides.

    Those are the hours of the generative training and of what precedes it, and the
    number of values of one example: the product of its dimensions.

    Raises
    ------
    DataError
        If a row is not as it should be, a key is there twice, or the table that comes
        with the package is not the one this code was written with.
    """
    try:
        content = file.read_bytes()
        lines = csv.DictReader(content.decode().splitlines())
        rows = [Row.model_validate(line) for line in lines]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{file.name}: column {where}, {first['msg']}; given {first['input']!r}"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file.name} cannot be read: {error}") from None
    keys = [row.key for row in rows]
    double = {key for key in keys if keys.count(key) > 1}
    if double or not rows:
        what = f"{', '.join(sorted(double))} twice" if double else "no row"
        raise DataError(f"{file.name}: {what}; every key once is wanted")
    if file == FILE and hashlib.sha256(content).hexdigest() != SHA256:
        raise DataError(
            f"{file.name} has been changed; restore it, or put its sha256 into SHA256 "
            "of training_times.py, so that the chapter is known to be stale"
        )
    table = pd.DataFrame([row.model_dump() for row in rows])
    table["hours"] = table.generative.map(hours)
    table["hours_before"] = table.non_generative.map(hours)
    table["values"] = table.dimensions.map(
        lambda sides: math.prod(int(side) for side in sides.split("x"))
    )
    return table
