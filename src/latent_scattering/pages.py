"""Write the pages of the book that are made from the results of its chapters.

``python -m latent_scattering.pages`` writes ``results.md``, ``status.md``,
``summary.md`` (which the index includes) and ``benchmarks/*.md`` (which the page on
performance includes) to ``book/generated``, and the results at a glance into
``README.md``. They show what
``book/<run>/results/<chapter>.json`` and ``book/benchmarks/*.json`` hold; which records
there are, and their order, is what ``_toc.yml`` lists.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import yaml
from pydantic import BaseModel, ValidationError

from latent_scattering.errors import UserError
from latent_scattering.paths import ROOT
from latent_scattering.record import freshness
from latent_scattering.report import Verdict

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

Freshness = Callable[[str, str], list[str]]
"""(run, chapter) -> why the record is stale; empty: it is fresh."""

# As on the page on performance; each is a module of `benchmarks`.
BENCHMARKS = (
    "scattering",
    "whitening",
    "precision",
    "memory",
    "upsampling",
    "planar_flow",
    "compiled",
    "roofline",
)

GLANCE = ("<!-- results: written by `make site` -->", "<!-- /results -->")

STALE = (
    "*Stale* marks a record that an earlier version of its chapter has made: its "
    "verdicts are by the rules of that version, and the present one has not been "
    "executed yet for that run.\n\n"
)

NOTHING = "No chapter is recorded yet; `make book` records the run `digits`.\n"


class PageError(UserError):
    """A results file or the table of contents cannot be made into a page."""


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


class Benchmark(BaseModel):
    """What `make bench` has measured: a table, and the machine it was measured on."""

    title: str
    machine: dict[str, str]
    rows: list[dict[str, str]]


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
    """
    runs: dict[str, str] = {}
    listed = []
    records = {}
    for caption, run, chapter in _contents(root / "_toc.yml"):
        runs.setdefault(run, caption)
        listed.append((run, chapter))
        path = root / "book" / run / "results" / f"{chapter}.json"
        if path.exists():
            records[run, chapter] = _record(path, run, chapter)
    stale = {key: freshness(*key) for key in records}
    return Results(runs, listed, records, stale)


def _contents(toc: Path) -> Iterable[tuple[str, str, str]]:
    """Yield (the run's caption, run, chapter): the parts called "Run: …"."""
    for part in yaml.safe_load(toc.read_text(encoding="utf8")).get("parts", []):
        caption = part["caption"]
        if not caption.startswith("Run: "):
            continue
        for entry in part["chapters"]:
            match entry["file"].removesuffix(".ipynb").split("/"):
                case ["book", run, chapter]:
                    yield caption.removeprefix("Run: "), run, chapter
                case _:
                    raise PageError(
                        f"{toc}: {entry['file']!r} stands in the part {caption!r}; "
                        "only book/<run>/<chapter> may: move it to another part."
                    )


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


def results_page(results: Results) -> str:
    """Return the page of all claims and numbers, the runs side by side."""
    page = "# Results across the runs\n\n"
    if not results.records:
        return page + NOTHING
    page += (
        "What the papers claim, and what each run measured. A verdict is computed "
        "from the measurement by the rule that is given below each table.\n\n"
        + (STALE if any(results.stale.values()) else "")
    )
    page += _table(
        ["Run", "Claims", *map(_badge, VERDICTS)],
        [
            [results.runs[run], str(sum(tally.values()))]
            + [str(tally[verdict]) for verdict in VERDICTS]
            for run in results.runs
            if (tally := _tally(results, run)) is not None
        ],
        align="lr" + "r" * len(VERDICTS),
    )
    for chapter, title in results.chapters.items():
        page += _claims(results, chapter, title)
    page += "## The numbers, run by run\n\n"
    page += (
        "Every number that a chapter reports, by the name under which its text "
        "quotes it.\n\n"
    )
    page += _numbers(results)
    return page


def _claims(results: Results, chapter: str, title: str) -> str:
    """Return the section of a chapter: its claims in all runs, and their rules."""
    records = results.of(chapter)
    links = _links(results, chapter)
    section = f"## {_line(title)}\n\nThe chapter `{chapter}`: {links}\n\n"
    by_id: dict[str, dict[str, Claim]] = {}
    for run, record in records.items():
        for claim in record.claims:
            by_id.setdefault(claim.id, {})[run] = claim
    if not by_id:
        return section + "It tests no claim of a paper.\n\n"
    rows, rules = [], ""
    for claims in by_id.values():
        first = next(iter(claims.values()))
        rows.append(
            [f"{_line(first.text)}<br>[{_line(first.source)}]{{.source}}", first.paper]
            + [
                f"{_line(claims[run].measured)}<br>{_badge(claims[run].verdict)}"
                if run in claims
                else "–"
                for run in records
            ]
        )
        rule = "; or ".join(dict.fromkeys(_line(c.rule) for c in claims.values()))
        rules += f"{_line(first.text)}\n: {rule}\n\n"
    section += _table(
        ["Claim", "Paper", *(results.name(run, chapter) for run in records)],
        rows,
        css="claims",
    )
    section += f":::{{dropdown}} How these verdicts are computed\n{rules}:::\n\n"
    return section


def _links(results: Results, chapter: str) -> str:
    return " · ".join(
        f"[{results.name(run, chapter)}](/book/{run}/{chapter}.ipynb)"
        for run in results.of(chapter)
    )


def _numbers(results: Results) -> str:
    rows = []
    for chapter in results.chapters:
        records = results.of(chapter)
        keys = dict.fromkeys(k for record in records.values() for k in record.numbers)
        for key in keys:
            texts = [
                records[run].numbers[key].text
                if run in records and key in records[run].numbers
                else "–"
                for run in results.runs
            ]
            rows.append([chapter, f"`{key}`", *texts])
    header = ["Chapter", "Number", *results.runs.values()]
    return _table(header, rows, align="ll" + "r" * len(results.runs))


def status_page(results: Results) -> str:
    """Return the page that says when, where and from what each record was made."""
    page = "# Status of the records\n\n"
    if not results.listed:
        return page + NOTHING
    page += (
        "A record is *stale* when what it computes may have changed since: its "
        "source, the modules that it imports, its parameters or the locked versions. "
        "`make run RUN=<run>` records a run again.\n\n"
    )
    rows = []
    for run, chapter in results.listed:
        record = results.records.get((run, chapter))
        if record is None:
            state = "[not recorded]{.verdict .cannot-be-tested-here}"
            rows.append([results.runs[run], chapter, "–", "–", "–", state])
            continue
        reasons = results.stale[run, chapter]
        state = "[fresh]{.verdict .reproduced}"
        if reasons:
            state = f"[stale]{{.verdict .not-reproduced}} {'; '.join(reasons)}"
        made = record.provenance
        rows.append(
            [
                results.runs[run],
                f"[{chapter}](/book/{run}/{chapter}.ipynb)",
                made.date,
                _duration(made.seconds),
                made.device,
                state,
            ]
        )
    page += _table(["Run", "Chapter", "Recorded", "Took", "Device", "State"], rows)
    if results.records:
        page += "## Versions\n\n" + _versions(results)
    return page


def _versions(results: Results) -> str:
    """Return a table: package by run; several versions where chapters differ."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for (run, _), record in results.records.items():
        for name, version in record.provenance.versions.items():
            found.setdefault(name, {}).setdefault(run, {})[version] = None
    runs = [run for run in results.runs if any(run in by for by in found.values())]
    return _table(
        ["Package", *(results.runs[run] for run in runs)],
        [[name, *(", ".join(by.get(run, "–")) for run in runs)]
         for name, by in found.items()],
    )  # fmt: skip


def summary(results: Results) -> str:
    """Return the table that the index includes: chapters by run, with verdicts."""
    if not results.records:
        return NOTHING
    runs = [run for run in results.runs if _tally(results, run) is not None]
    rows = []
    for chapter, title in results.chapters.items():
        records = results.of(chapter)
        row = [f"**{_line(title)}**<br>{_links(results, chapter)}"]
        for run in runs:
            claims = records[run].claims if run in records else []
            tally = Counter(claim.verdict for claim in claims)
            counts = [_badge(v, tally[v]) for v in VERDICTS if tally[v]]
            row.append(" ".join(counts) or "–")
        rows.append(row)
    header = ["Chapter", *(results.runs[run] for run in runs)]
    table = _table(header, rows, css="claims")
    return f"{' '.join(map(_badge, VERDICTS))}\n\n{table}"


def benchmark_tables(root: Path = ROOT) -> dict[str, str]:
    """Return the tables of each benchmark, of all machines that it was kept from.

    Raises
    ------
    PageError
        If a file is not what a benchmark writes.
    """
    folder = root / "book" / "benchmarks"
    tables = dict.fromkeys(BENCHMARKS, "")
    for name in BENCHMARKS:
        files = folder.glob(f"{name}*.json")  # a GPU's has a name of its own
        for path in sorted(files, key=lambda file: file.stem):
            tables[name] += _benchmark(path)
    return {
        name: table or "Not measured yet; `make bench` does.\n"
        for name, table in tables.items()
    }


def _benchmark(path: Path) -> str:
    try:
        found = Benchmark.model_validate_json(path.read_bytes())
    except ValidationError as error:
        what = error.errors()[0]["msg"]
        raise PageError(
            f"{path} is not the results of a benchmark ({what}); make bench"
        ) from None
    header = list(found.rows[0])
    rows = [[row.get(name, "–") for name in header] for row in found.rows]
    measured = "on {date}: {processor}, {device}, torch {torch}".format_map(
        found.machine
    )
    source = f"`benchmarks/{path.name.partition('.')[0]}.py`"
    return (
        f"~~~{{table}} {found.title}. Measured by {source} {measured}.\n"
        + _table(header, rows, align="l" + "r" * (len(header) - 1))
        + "~~~\n\n"
    )


def glance(results: Results) -> str:
    """Return the table for the README: each claim, and what each run says of it."""
    by_id: dict[str, dict[str, str]] = {}
    texts: dict[str, str] = {}
    for (run, chapter), record in results.records.items():
        stale = " (stale)" if results.stale[run, chapter] else ""
        for claim in record.claims:
            texts.setdefault(claim.id, f"{_line(claim.text)} ({_line(claim.source)})")
            cell = f"{_line(claim.measured)}: **{claim.verdict}**{stale}"
            by_id.setdefault(claim.id, {})[run] = cell
    rows = [
        [texts[claim], *(cells.get(run, "–") for run in results.runs)]
        for claim, cells in by_id.items()
    ]
    table = _table(["What the papers say", *results.runs.values()], rows)
    return (STALE if any(results.stale.values()) else "") + table


def with_glance(readme: str, results: Results) -> str:
    """Return a README whose part between the marks `GLANCE` shows the results."""
    before, _, rest = readme.partition(GLANCE[0])
    _, mark, after = rest.partition(GLANCE[1])
    if not mark:
        raise PageError(f"README.md: the marks {' … '.join(GLANCE)} are missing")
    return f"{before}{GLANCE[0]}\n\n{glance(results)}{GLANCE[1]}{after}"


def _tally(results: Results, run: str) -> Counter[Verdict] | None:
    """Return how often each verdict was given in a run; none: nothing recorded."""
    records = [record for key, record in results.records.items() if key[0] == run]
    if not records:
        return None
    return Counter(claim.verdict for record in records for claim in record.claims)


def _badge(verdict: str, count: int | None = None) -> str:
    """Return a verdict in its colour, or a number of them: its sign tells which."""
    text = verdict
    if count is not None:
        text = f"{count} [{verdict}]{{.visually-hidden}}"
    return f"[{text}]{{.verdict .{verdict.replace(' ', '-')}}}"


def _duration(seconds: float) -> str:
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _line(text: str) -> str:
    return " ".join(text.split())


def _table(
    header: list[str], rows: list[list[str]], *, align: str = "", css: str = ""
) -> str:
    """Return a MyST table; `align` gives l or r a column, `css` a class."""
    rule = {"l": ":--", "r": "--:"}
    lines = [header, [rule[a] for a in align.ljust(len(header), "l")], *rows]
    table = "".join(
        # A pipe would end the cell; MyST takes the backslash away, also in formulas.
        f"| {' | '.join(_line(cell).replace('|', chr(92) + '|') for cell in line)} |\n"
        for line in lines
    )
    return (f"{{.{css}}}\n" if css else "") + table + "\n"


def write(root: Path = ROOT, *, freshness: Freshness = freshness) -> None:
    """Write the pages to ``book/generated`` in the folder `root`, and the README.

    Raises
    ------
    PageError
        If a results file is malformed.
    """
    results = read(root, freshness=freshness)
    pages = {
        "results": results_page(results),
        "status": status_page(results),
        "summary": summary(results),
        **{f"benchmarks/{name}": t for name, t in benchmark_tables(root).items()},
    }
    folder = root / "book" / "generated"
    (folder / "benchmarks").mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf8")
    readme = root / "README.md"
    if readme.exists():
        old = readme.read_text(encoding="utf8")
        new = with_glance(old, results)
        if new != old:
            readme.write_text(new, encoding="utf8")


def main() -> None:
    """Write the pages of this book."""
    try:
        write()
    except UserError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


if __name__ == "__main__":
    main()
