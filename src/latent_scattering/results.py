"""The results of the recorded chapters, as their files hold them.

``book/<run>/results/<chapter>.json`` is what a chapter has written when it was
executed; which records there are, and their order, is what ``_toc.yml`` lists.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ValidationError

from latent_scattering import contents
from latent_scattering.errors import UserError
from latent_scattering.paths import ROOT
from latent_scattering.record import freshness
from latent_scattering.report import Verdict

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

Freshness = Callable[[str, str], list[str]]
"""(run, chapter) -> why the record is stale; empty: it is fresh."""

STALE = (
    "*Stale* marks a record that an earlier version of its chapter has made: its "
    "verdicts are by the rules of that version, and the present one has not been "
    "executed yet for that run.\n\n"
)

NOTHING = "No chapter is recorded yet; `make book` records the run `digits`.\n"


class PageError(UserError):
    """A file that the pages are made from is not what it should be."""


class Number(BaseModel):
    """A measured number: its value, and how the book writes it (with its unit)."""

    value: float | None
    text: str


class Claim(BaseModel):
    """What a paper says, what was measured, and the verdict that a rule gives."""

    id: str
    text: str
    source: str
    paper: str
    measured: str
    verdict: Verdict
    rule: str


class Provenance(BaseModel):
    """When and on what a chapter was executed."""

    device: str
    seconds: float
    date: str
    versions: dict[str, str]


class Record(BaseModel):
    """The results of one executed chapter."""

    chapter: str
    run: str
    title: str
    numbers: dict[str, Number]
    claims: list[Claim]
    provenance: Provenance


@dataclass(frozen=True)
class Results:
    """The records of the book, in the order of its table of contents.

    Attributes
    ----------
    runs
        What the site calls each run, by name (``mnist``: ``MNIST``).
    listed
        (run, chapter) of every chapter that the contents list.
    records
        Those of them that have results.
    stale
        Why a record is stale; nothing, if it is fresh.
    """

    runs: dict[str, str]
    listed: list[tuple[str, str]]
    records: dict[tuple[str, str], Record]
    stale: dict[tuple[str, str], list[str]]

    @property
    def chapters(self) -> dict[str, str]:
        """The title of every chapter that is recorded in some run, by name."""
        titles: dict[str, str] = {}
        for _, chapter in self.listed:
            for run in self.runs:
                if found := self.records.get((run, chapter)):
                    titles.setdefault(chapter, found.title)
        return titles

    def of(self, chapter: str) -> dict[str, Record]:
        """Return the records of a chapter, by run."""
        return {
            run: self.records[run, chapter]
            for run in self.runs
            if (run, chapter) in self.records
        }

    def name(self, run: str, chapter: str) -> str:
        """Return what the site calls a run, marked where its chapter is stale."""
        return self.runs[run] + (" (stale)" if self.stale[run, chapter] else "")


def read(root: Path = ROOT, *, freshness: Freshness = freshness) -> Results:
    """Read the results of all recorded chapters of the book in the folder `root`.

    Raises
    ------
    PageError
        If a file is not what a chapter writes; the message names it.
    ContentsError
        As `contents.listed` does.
    """
    runs: dict[str, str] = {}
    listed = []
    records = {}
    for caption, run, chapter in contents.listed(root):
        runs.setdefault(run, caption)
        listed.append((run, chapter))
        path = root / "book" / run / "results" / f"{chapter}.json"
        if path.exists():
            records[run, chapter] = _record(path, run, chapter)
    stale = {key: freshness(*key) for key in records}
    return Results(runs, listed, records, stale)


def _record(path: Path, run: str, chapter: str) -> Record:
    try:
        record = Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"]) or "the file"
        what = f"{where}: {first['msg']}"
    else:
        if (record.run, record.chapter) == (run, chapter):
            return record
        what = f"it holds the chapter {record.chapter!r} of the run {record.run!r}"
    raise PageError(
        f"{path} is not the results of a chapter ({what}); "
        f"record it again: make run RUN={run}"
    )
