"""Records: chapters executed by papermill, stamped, and checked for freshness.

A record is ``book/<run>/<chapter>.ipynb`` and ``book/<run>/results/<chapter>.json``.
Its stamp holds digests of the chapter's code, of the package modules it imports, of
the run's parameters and of the pins in the lock; it is stale when one has changed.

Command line: ``python -m latent_scattering.record execute RUN CHAPTER``, ``check``
(fails on stale and missing records) and ``refresh`` (carries changed prose into fresh
records).
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillException, PapermillExecutionError
from traitlets.config import Config

from latent_scattering import contents, digest, parameters, paths
from latent_scattering.errors import ParameterError, UserError
from latent_scattering.report import MIME

# A label of a chapter, defined or referred to: fig-…, tab-…, eq-…, sec-….
LABEL = re.compile(r"(?<![\w-])(?=(?:fig|tab|eq|sec)-[a-z0-9])")
MACHINE = ("papermill", "execution")  # cell metadata: times and paths of one machine


class ChapterError(UserError):
    """A chapter stopped; the message is its own."""


def load_run(run: str) -> dict[str, Any]:
    """Return the parameters of ``runs/<run>.yaml``.

    Raises
    ------
    ParameterError
        If there is no such file, it is no mapping, or a value is refused.
    """
    file = paths.RUNS / f"{run}.yaml"
    if not file.is_file():
        allowed = ", ".join(sorted(f.stem for f in paths.RUNS.glob("*.yaml")))
        raise ParameterError(f"{run}: there is no such run; allowed: {allowed}")
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ParameterError(f"runs/{run}.yaml: must be `name: value` lines")
    for chapter in parameters.chapters():
        parameters.validate(chapter, values)
    return values


def execute(run: str, chapter: str) -> Path:
    """Execute a chapter with a run's parameters; record it whole or not at all.

    Raises
    ------
    ParameterError
        If there is no such run or chapter, or it refuses a parameter.
    ChapterError
        If the chapter stops on an error.
    """
    values, source = load_run(run), read_source(chapter)
    stamped = stamp(run, chapter)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        given, taken = Path(folder, "in.ipynb"), Path(folder, "out.ipynb")
        nbformat.write(source, given)
        try:
            notebook = papermill.execute_notebook(
                str(given),
                str(taken),
                {k: v for k, v in values.items() if k in parameters.declared(chapter)},
                cwd=str(paths.ROOT),
                kernel_name="python3",
                progress_bar=False,
                stderr_file=sys.stderr,  # progress bars, as they move
                # Sockets of the file system: a port could be read by other users. In a
                # folder of their own, or chapters executed side by side share them.
                config=Config(
                    {
                        "KernelManager": {
                            "transport": "ipc",
                            "ip": str(Path(folder, "kernel")),
                        }
                    }
                ),
            )
        except PapermillExecutionError as error:
            what = f"{error.ename}: {error.evalue}"
            if error.ename not in _own_errors(UserError):
                what += f"; the traceback is in {_keep(taken, run, chapter)}"
            raise ChapterError(f"{run}/{chapter}: {what}") from None
        except DeadKernelError:
            raise ChapterError(
                f"{run}/{chapter}: its process was killed; most often memory ran out"
            ) from None
        except PapermillException as error:
            raise ChapterError(f"{run}/{chapter}: {error}") from None
    results = _results(notebook)
    record = paths.BOOK / run / f"{chapter}.ipynb"
    results = {**results, "title": _title(source), "stamp": stamped}
    _tidy(notebook, run)
    _write(record, nbformat.writes(notebook) + "\n")
    _write(
        record.parent / "results" / f"{chapter}.json",
        json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    )
    print(f"{run}/{chapter}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return record


def freshness(run: str, chapter: str) -> list[str]:
    """Return why a record is stale: what has changed since; empty if it is fresh."""
    file = paths.BOOK / run / "results" / f"{chapter}.json"
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))["stamp"]
        recorded = dict(recorded)
    except (OSError, ValueError, KeyError, TypeError):
        return ["no readable record"]
    now = stamp(run, chapter)
    return [part for part in now if recorded.get(part) != now[part]]


def recorded() -> list[tuple[str, str]]:
    """Return every recorded (run, chapter)."""
    files = sorted(paths.BOOK.glob("*/results/*.json"))
    return [(file.parent.parent.name, file.stem) for file in files]


def refresh(run: str, chapter: str) -> bool:
    """Carry the prose, captions and comments of the source into a fresh record.

    Returns whether the record changed. A stale record is left alone.
    """
    if freshness(run, chapter):
        return False
    file = paths.BOOK / run / f"{chapter}.ipynb"
    old = nbformat.read(file, as_version=4)
    outputs = {
        digest.of_code(cell.source): cell
        for cell in old.cells
        if cell.cell_type == "code"
    }
    new = read_source(chapter)
    injected = [c for c in old.cells if "injected-parameters" in _tags(c)]
    for cell in new.cells:
        if cell.cell_type == "code":
            twin = outputs[digest.of_code(cell.source)]
            cell.outputs, cell.execution_count = twin.outputs, twin.execution_count
    at = next(i for i, c in enumerate(new.cells) if "parameters" in _tags(c)) + 1
    new.cells[at:at] = injected
    new.metadata = old.metadata
    _tidy(new, run)
    text = nbformat.writes(new) + "\n"
    if text == file.read_text(encoding="utf-8"):
        return False
    _write(file, text)
    return True


def read_source(chapter: str) -> NotebookNode:
    """Return a chapter as it is written (its ``.md``), with cell ids that stay."""
    file = paths.NOTEBOOKS / f"{chapter}.md"
    if not file.is_file():
        allowed = ", ".join(parameters.chapters())
        raise ParameterError(f"{chapter}: no such chapter; allowed: {allowed}")
    notebook = jupytext.read(file)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{chapter}-{number}"
    return notebook


def code_of(notebook: NotebookNode) -> str:
    """Return a notebook's code, its cells joined."""
    cells = [c.source for c in notebook.cells if c.cell_type == "code"]
    return "\n".join(cells)


def stamp(run: str, chapter: str) -> dict[str, str]:
    """Return digests of all that a chapter's record depends on, by what it is."""
    values = load_run(run)
    code = code_of(read_source(chapter))
    modules = [m for m in digest.imports(code) if m.startswith(digest.PACKAGE)]
    mine = {k: v for k, v in values.items() if k in parameters.declared(chapter)}
    return {
        "code": digest.of_code(code),
        "package": digest.of_package(modules),
        "parameters": digest.of_json(mine),
        "lock": digest.of_lock(modules, code),
    }


def _own_errors(error: type[UserError]) -> set[str]:
    """Return the names of an error and of all that are derived from it."""
    below = (_own_errors(each) for each in error.__subclasses__())
    return {error.__name__}.union(*below)


def _keep(notebook: Path, run: str, chapter: str) -> Path:
    """Keep a notebook as far as it was executed; return where."""
    kept = paths.ROOT / "build" / "failed" / run / f"{chapter}.ipynb"
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(notebook, kept)
    return kept


def _results(notebook: NotebookNode) -> dict[str, Any]:
    for cell in reversed(notebook.cells):
        for output in cell.get("outputs", []):
            if MIME in output.get("data", {}):
                # Kept in a file of its own, so not twice.
                return dict(output["data"].pop(MIME))
    raise ChapterError("the chapter does not end with chapter.close()")


def _title(notebook: NotebookNode) -> str:
    match = re.search(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE)
    return match[1] if match else ""


def _tidy(notebook: NotebookNode, run: str) -> None:
    """Take out what belongs to one machine, and prefix labels by the run's name.

    A chapter is shown once a run, and a label must be unique in the book.
    """
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for key in MACHINE:
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]  # papermill adds an empty list
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            figure = cell.metadata.get("mystnb", {}).get("figure", {})
            for key in figure:
                figure[key] = LABEL.sub(f"{run}-", figure[key])
        else:
            cell.source = LABEL.sub(f"{run}-", cell.source)


def _tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m latent_scattering.record")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("execute", help="execute a chapter and record it")
    one.add_argument("run")
    one.add_argument("chapter")
    every = commands.add_parser("check", help="fail if a record is stale or missing")
    every.add_argument("--run", help="of this run alone")
    commands.add_parser("refresh", help="carry changed prose into fresh records")
    arguments = parser.parse_args()
    try:
        if arguments.command == "execute":
            execute(arguments.run, arguments.chapter)
        elif arguments.command == "refresh":
            for run, chapter in recorded():
                if refresh(run, chapter):
                    print(f"{run}/{chapter}: prose refreshed")
        else:
            return _check(arguments.run)
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues from here", file=sys.stderr)
        return 130
    return 0


def _check(run: str | None) -> int:
    if run is not None:
        load_run(run)
    stale = 0
    shown = [(name, chapter) for _, name, chapter in contents.listed(paths.ROOT)]
    for name, chapter in dict.fromkeys([*shown, *recorded()]):
        if run in (None, name):
            reasons = freshness(name, chapter)
            stale += bool(reasons)
            state = f"stale: {', '.join(reasons)}" if reasons else "fresh"
            print(f"{name}/{chapter}: {state}")
    if stale:
        print(
            f"{stale} stale or missing; `make run RUN=…` executes them again",
            file=sys.stderr,
        )
    return int(stale > 0)


if __name__ == "__main__":
    sys.exit(main())
