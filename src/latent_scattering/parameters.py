"""The parameters of the chapters, as their parameter cells declare them.

A line such as ``n_components: int = 512  # d, components kept [1, 5000]`` is the one
place where a parameter gets its name, type, default, meaning and range. A range is an
interval at the end of the comment, ``[0, 1)`` or ``(0, )``, or the values allowed,
``{code, text}``.
"""

import ast
import difflib
import re
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from latent_scattering import paths
from latent_scattering.errors import ParameterError

TYPES = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list[int]": list[int],
    "list[float]": list[float],
    "list[str]": list[str],
}
INTERVAL = re.compile(r"([\[(])([^\[\](),{}]*),([^\[\](),{}]*)([\])])$")
CHOICES = re.compile(r"\{([^{}]*)\}$")


def chapters() -> list[str]:
    """Return the names of all chapters."""
    return sorted(file.stem for file in paths.NOTEBOOKS.glob("*.ipynb"))


@cache
def declared(chapter: str) -> dict[str, dict[str, str]]:
    """Return what a chapter's parameter cell declares, by name (papermill's view)."""
    with warnings.catch_warnings():
        # papermill looks for Jupyter's widgets, which the book does without.
        warnings.simplefilter("ignore")
        import papermill
    return papermill.inspect_notebook(str(paths.NOTEBOOKS / f"{chapter}.ipynb"))


def validate(chapter: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chapter's parameters, converted to their types.

    Parameters
    ----------
    chapter
        A name from `chapters`.
    given
        Values by name, for example the variables of a notebook. A name that only
        other chapters know is passed over, since a run has one file for all of them.

    Raises
    ------
    ParameterError
        If no chapter knows a name, or a value has the wrong type or is out of range.
    """
    mine = declared(chapter)
    known = set().union(*(declared(name) for name in chapters()))
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ParameterError(
                f"{name}: no chapter has this parameter; {hint}"
                f"{chapter} takes {', '.join(mine)}"
            )
    model = _model(chapter)
    try:
        values = model.model_validate({k: v for k, v in given.items() if k in mine})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ParameterError(
            f"{name} = {given[name]!r}: {first['msg'][0].lower()}{first['msg'][1:]}; "
            f"allowed: {mine[name]['inferred_type_name']}, {mine[name]['help']}"
        ) from None
    return values.model_dump()


@cache
def _model(chapter: str) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for name, parameter in declared(chapter).items():
        kind, limits = TYPES[parameter["inferred_type_name"]], {}
        if choices := CHOICES.search(parameter["help"]):
            kind = Literal[tuple(c.strip() for c in choices[1].split(","))]  # type: ignore[assignment]
        elif interval := INTERVAL.search(parameter["help"]):
            opening, low, high, closing = interval.groups()
            if low.strip():
                limits["ge" if opening == "[" else "gt"] = ast.literal_eval(low.strip())
            if high.strip():
                limits["le" if closing == "]" else "lt"] = ast.literal_eval(
                    high.strip()
                )
        default = ast.literal_eval(parameter["default"])
        fields[name] = (kind, Field(default, allow_inf_nan=None, **limits))
        if kind is float:
            fields[name] = (kind, Field(default, allow_inf_nan=False, **limits))
    return create_model(chapter, __config__=ConfigDict(extra="forbid"), **fields)
