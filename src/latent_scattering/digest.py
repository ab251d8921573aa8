"""Digests of source code that change only when what it computes may have changed.

Comments, docstrings and formatting do not count; only modules that are imported,
directly or not, do. Artefacts (`store`) and records (`record`) are keyed by them.
"""

import ast
import hashlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from threading import Lock

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from latent_scattering import paths

PACKAGE = __name__.partition(".")[0]
# Keeps what others compute, and computes nothing: a change of it changes no result.
KEEPER = f"{PACKAGE}.store"
_PARSER = Lock()  # of threads that look up artefacts: Python 3.11's parser is not safe


def of_json(value: object) -> str:
    """Return the sha256 (hex) of a JSON-able value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def of_code(source: str) -> str:
    """Return the sha256 (hex) of Python source, less comments, docstrings, layout."""
    return of_json(_canonical(_parsed(source)))


def of_package(modules: Iterable[str]) -> str:
    """Return one digest of package modules and all package modules they import."""
    return of_json({name: of_code(_source(name)) for name in closure(modules)})


def closure(modules: Iterable[str]) -> list[str]:
    """Return the package modules that imports from ``modules`` reach.

    The search does not go through the store, which only keeps what others compute.
    """
    reached = {KEEPER}
    queue = list(modules)
    while queue:
        name = queue.pop()
        if name not in reached:
            reached.add(name)
            queue += [m for m in imports(_source(name)) if _in_package(m)]
    return sorted(reached - {KEEPER})


def imports(source: str) -> set[str]:
    """Return the modules that Python source imports, submodules of ours resolved."""
    found: set[str] = set()
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = _in_package(name) and _file(name) is not None
                found.add(name if is_module else node.module)
    return found


def of_lock(modules: Iterable[str], source: str = "") -> str:
    """Return a digest of the pins that code depends on.

    Parameters
    ----------
    modules
        Names of package modules; those that they import count too.
    source
        More Python source (a chapter's) whose imports count.

    The pins are those of the distributions imported and of all that these require, so
    that a new pin for one chapter leaves the others fresh.
    """
    top = {m.partition(".")[0] for m in imports(source)}
    for name in closure(modules):
        top |= {m.partition(".")[0] for m in imports(_source(name))}
    providers = _providers()
    queue = [d for m in top - {PACKAGE} for d in providers.get(m, ())]
    pins, reached = _pins(), set()
    while queue:
        name = queue.pop()
        if name not in reached:
            reached.add(name)
            queue += _requirements(name)
    return of_json({name: pins[name] for name in sorted(reached & pins.keys())})


def _parsed(source: str) -> ast.Module:
    with _PARSER:
        return ast.parse(source)


def _canonical(node: object) -> object:
    """Return a syntax tree as JSON, the same for every version of Python."""
    if isinstance(node, ast.AST):
        fields = {name: getattr(node, name, None) for name in node._fields}
        for ignored in ("ctx", "kind", "type_comment"):
            fields.pop(ignored, None)
        if "body" in fields and isinstance(fields["body"], list):
            fields["body"] = [n for n in fields["body"] if not _is_docstring(n)]
        # Newer versions add fields that are empty in older code.
        kept = {k: _canonical(v) for k, v in fields.items() if v not in (None, [])}
        return [type(node).__name__, kept]
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    return node if isinstance(node, str | int) else repr(node)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _in_package(name: str) -> bool:
    return name == PACKAGE or name.startswith(PACKAGE + ".")


def _file(name: str) -> Path | None:
    # By path, not by import: a digest must not execute what it reads.
    if not _in_package(name):
        return None
    base = Path(__file__).parent.joinpath(*name.split(".")[1:])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _source(name: str) -> str:
    file = _file(name)
    if file is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return file.read_text(encoding="utf-8")


@cache
def _providers() -> dict[str, list[str]]:
    return {
        module: [canonicalize_name(d) for d in distributions]
        for module, distributions in importlib.metadata.packages_distributions().items()
        if module not in sys.stdlib_module_names
    }


@cache
def _requirements(distribution: str) -> list[str]:
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    wanted = [Requirement(line) for line in lines]
    return [
        canonicalize_name(r.name)
        for r in wanted
        if r.marker is None or r.marker.evaluate({"extra": ""})
    ]


def _pins() -> dict[str, str]:
    pins = re.findall(
        r"^([\w.-]+)==(\S+)", paths.LOCK.read_text(encoding="utf-8"), re.MULTILINE
    )
    return {canonicalize_name(name): version for name, version in pins}
