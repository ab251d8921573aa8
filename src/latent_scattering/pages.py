"""Write the pages of the book that are made from the results of its chapters.

``python -m latent_scattering.pages`` writes ``results.md``, ``status.md``,
``findings.md`` and ``summary.md`` (which the index includes) and ``benchmarks/*.md``
(which the page on performance includes) to ``book/generated``, and the results into
``README.md``. They show what ``book/<run>/results/<chapter>.json`` and
``book/benchmarks/*.json`` hold.
"""

from collections import Counter
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from latent_scattering.errors import UserError
from latent_scattering.findings import findings
from latent_scattering.markdown import line, table
from latent_scattering.paths import ROOT
from latent_scattering.readme import with_results
from latent_scattering.record import freshness
from latent_scattering.report import Verdict
from latent_scattering.results import (
    NOTHING,
    STALE,
    VERDICTS,
    Claim,
    Freshness,
    PageError,
    Record,
    Results,
    read,
)

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


class Machine(BaseModel):
    """What a benchmark ran on."""

    date: str
    processor: str
    device: str
    torch: str


class Benchmark(BaseModel):
    """What `make bench` has measured: a table, and the machine it was measured on."""

    title: str
    machine: Machine
    rows: list[dict[str, str]] = Field(min_length=1)


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
    page += table(
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
    section = f"## {line(title)}\n\nThe chapter `{chapter}`: {links}\n\n"
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
            [f"{line(first.text)}<br>[{line(first.source)}]{{.source}}", first.paper]
            + [
                f"{line(claims[run].measured)}<br>{_badge(claims[run].verdict)}"
                if run in claims
                else "–"
                for run in records
            ]
        )
        rule = "; or ".join(dict.fromkeys(line(c.rule) for c in claims.values()))
        rules += f"{line(first.text)}\n: {rule}\n\n"
    section += table(
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
    return table(header, rows, align="ll" + "r" * len(results.runs))


def status_page(results: Results) -> str:
    """Return the page that says when, where and from what each record was made."""
    page = "# Status of the records\n\n"
    if not results.listed:
        return page + NOTHING
    page += (
        "A record is *stale* when what it computes may have changed since: its "
        "source, the modules that it imports, its parameters or the locked versions. "
        "`make run RUN=<run>` records a run again. What a chapter *took* leaves out "
        "what it found in the [store](/book/reproducing.md) of artefacts; where that "
        "was the training of the generator, its time stands beside.\n\n"
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
                made.date.replace("-", "\N{NON-BREAKING HYPHEN}"),
                _took(record),
                made.device,
                state,
            ]
        )
    page += table(["Run", "Chapter", "Recorded", "Took", "Device", "State"], rows)
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
    return table(
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
        row = [f"**{line(title)}**<br>{_links(results, chapter)}"]
        for run in runs:
            claims = records[run].claims if run in records else []
            tally = Counter(claim.verdict for claim in claims)
            counts = [_badge(v, tally[v]) for v in VERDICTS if tally[v]]
            row.append(" ".join(counts) or "–")
        rows.append(row)
    header = ["Chapter", *(results.runs[run] for run in runs)]
    legend = " ".join(map(_badge, VERDICTS))
    stale = STALE if any(results.stale.values()) else ""
    return f"{legend}\n\n{table(header, rows, css='summary')}{stale}"


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
    on = found.machine
    measured = f"on {on.date}: {on.processor}, {on.device}, torch {on.torch}"
    source = f"`benchmarks/{path.name.partition('.')[0]}.py`"
    return (
        f"~~~{{table}} {found.title}. Measured by {source} {measured}.\n"
        + table(header, rows, align="l" + "r" * (len(header) - 1))
        + "~~~\n\n"
    )


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


def _took(record: Record) -> str:
    """Return how long a chapter took, and its training where that was kept."""
    took, minutes = record.provenance.seconds, record.numbers.get("minutes")
    if minutes is None or minutes.value is None or 60 * minutes.value < took:
        return _duration(took)
    return f"{_duration(took)}, training {_duration(60 * minutes.value)}"


def _duration(seconds: float) -> str:
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def write(root: Path = ROOT, *, freshness: Freshness = freshness) -> None:
    """Write the pages to ``book/generated`` in the folder `root`, and the README.

    Raises
    ------
    PageError
        If a results file is malformed.
    """
    results = read(root, freshness=freshness)
    source = root / "book" / "findings.md"
    found = findings(source.read_text("utf8"), results) if source.exists() else ""
    pages = {
        "findings": found,
        "results": results_page(results),
        "status": status_page(results),
        "summary": summary(results),
        **{f"benchmarks/{name}": t for name, t in benchmark_tables(root).items()},
    }
    folder = root / "book" / "generated"
    (folder / "benchmarks").mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf8")
    page = root / "README.md"
    if page.exists():
        old = page.read_text(encoding="utf8")
        # From its folder: the site's links start at the root of the book.
        new = with_results(old, found.replace("](/", "]("), results)
        if new != old:
            page.write_text(new, encoding="utf8")


def main() -> None:
    """Write the pages of this book."""
    try:
        write()
    except UserError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


if __name__ == "__main__":
    main()
