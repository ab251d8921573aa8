"""Write the results into ``README.md``: what was found, and the verdict on every claim.

A README is read where the site's style is not: verdicts are signs.
"""

from latent_scattering.markdown import line, table
from latent_scattering.report import Verdict
from latent_scattering.results import STALE, PageError, Results

MARKS = ("<!-- results: written by `make site` -->", "<!-- /results -->")

# As in `book/_static/style.css`.
SIGNS: dict[Verdict, str] = {
    "reproduced": "✓",
    "partly": "≈",
    "not reproduced": "✗",
    "cannot be tested here": "–",
}


def verdicts(results: Results) -> str:
    """Return the table of all claims: the sign of each run's verdict, by chapter."""
    rows = []
    for chapter, title in results.chapters.items():
        records = results.of(chapter)
        links = {
            run: f"[chapter](book/{run}/{chapter}.ipynb)"
            + (" (stale)" if results.stale[run, chapter] else "")
            for run in records
        }
        rows.append([f"**{line(title)}**", *(links.get(r, "") for r in results.runs)])
        claims = {c.id: c for record in records.values() for c in record.claims}
        for claim in claims.values():
            found = {
                run: SIGNS[own.verdict]
                for run, record in records.items()
                for own in record.claims
                if own.id == claim.id
            }
            text = f"{line(claim.text)} ({line(claim.source)})"
            rows.append([text, *(found.get(run, "") for run in results.runs)])
    legend = " · ".join(f"{sign} {verdict}" for verdict, sign in SIGNS.items())
    columns = ["What the papers say", *results.runs.values()]
    return f"{legend}\n\n{table(columns, rows)}"


def with_results(readme: str, found: str, results: Results) -> str:
    """Return a README whose part between the `MARKS` shows `found` and the verdicts.

    Raises
    ------
    PageError
        If it lacks the marks.
    """
    before, _, rest = readme.partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise PageError(f"README.md: the marks {' … '.join(MARKS)} are missing")
    stale = STALE if any(results.stale.values()) else ""
    shown = f"{found}\n{stale}{verdicts(results)}"
    return f"{before}{MARKS[0]}\n\n{shown}{MARKS[1]}{after}"
