import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from latent_scattering import pages, readme
from latent_scattering import results as recorded
from latent_scattering.errors import UserError
from latent_scattering.findings import findings
from latent_scattering.paths import ROOT
from latent_scattering.results import NOTHING, STALE, PageError, Results

TOC = """
format: jb-book
root: book/index
parts:
  - caption: "Run: digits"
    chapters: [{file: book/digits/whitening}, {file: book/digits/inversion}]
  - caption: "Run: MNIST"
    chapters: [{file: book/mnist/inversion}]
  - caption: Across the runs
    chapters: [{file: book/generated/results}]
"""


def claim(id="gap", **changes):
    return {
        "id": id,
        "text": "The training error is above the test error.",
        "source": "Angles & Mallat, §4",
        "paper": "3–8 dB",
        "measured": "1.2 dB",
        "verdict": "not reproduced",
        "rule": "reproduced if 3 ≤ gap ≤ 8",
        **changes,
    }


def record(root: Path, run: str, chapter: str, claims=(), numbers=None, **provenance):
    """Write results as a chapter does."""
    texts = {"psnr": "24.3 dB"} if numbers is None else numbers
    path = root / "book" / run / "results" / f"{chapter}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = {
        "chapter": chapter,
        "run": run,
        "title": f"Does {chapter} work?",
        "numbers": {k: {"value": 1.0, "text": text} for k, text in texts.items()},
        "claims": list(claims),
        "provenance": {
            "parameters": {"J": 2},
            "device": "CPU, 2 threads",
            "processor": "some",
            "seconds": 31.4,
            "date": "2026-11-21",
            "versions": {"python": "3.11.7"},
        }
        | provenance,
        "stamp": {},
    }
    path.write_text(json.dumps(results), encoding="utf8")
    return path


@pytest.fixture
def root(tmp_path):
    (tmp_path / "_toc.yml").write_text(TOC, encoding="utf8")
    return tmp_path


def rows(page: str) -> list[list[str]]:
    """Return the cells of all tables of a page, as a Markdown parser sees them."""
    found: list[list[str]] = []
    tokens = MarkdownIt().enable("table").parse(page)
    for token, content in pairwise(tokens):
        if token.type == "tr_open":
            found.append([])
        elif token.type in ("th_open", "td_open"):
            found[-1].append(content.content)
    return found


def fresh(run: str, chapter: str) -> list[str]:
    return []


def read(root: Path) -> Results:
    return recorded.read(root, freshness=fresh)


def test_nothing_recorded(root):
    pages.write(root, freshness=fresh)
    folder = root / "book" / "generated"
    assert (folder / "summary.md").read_text() == NOTHING
    assert NOTHING in (folder / "results.md").read_text()
    # The contents list three chapters: the status page says that they are missing.
    assert (folder / "status.md").read_text().count("not recorded") == 3


def test_no_run_listed(tmp_path):
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    results = read(tmp_path)
    assert results.listed == []
    for page in (
        pages.results_page(results),
        pages.status_page(results),
        pages.summary(results),
    ):
        assert page.endswith(NOTHING)


def test_runs_stand_side_by_side(root):
    record(root, "digits", "inversion", [claim(), claim("gpu", text="It is fast.")])
    record(root, "mnist", "inversion", [claim(verdict="reproduced", measured="4 dB")])
    table = rows(pages.results_page(read(root)))
    assert ["Claim", "Paper", "digits", "MNIST"] in table
    assert [
        "The training error is above the test error.<br>[Angles & Mallat, §4]{.source}",
        "3–8 dB",
        "1.2 dB<br>[not reproduced]{.verdict .not-reproduced}",
        "4 dB<br>[reproduced]{.verdict .reproduced}",
    ] in table
    (only_digits,) = [row for row in table if row[0].startswith("It is fast.")]
    assert only_digits[-1] == "–"


def test_what_stale_records_say_is_marked(root):
    record(root, "digits", "inversion", [claim()])
    record(root, "mnist", "inversion", [claim()])
    results = recorded.read(
        root, freshness=lambda run, _: ["code"] if run == "mnist" else []
    )
    page = pages.results_page(results)
    assert STALE in page and STALE not in pages.results_page(read(root))
    assert ["Claim", "Paper", "digits", "MNIST (stale)"] in rows(page)
    assert "[MNIST (stale)](/book/mnist/inversion.ipynb)" in pages.summary(results)
    assert STALE in pages.summary(results)
    assert STALE not in pages.summary(read(root))
    marked = FINDING + "- It is fast.\n  In {{mnist/inversion:psnr}}.\n- Quite.\n"
    assert findings(marked, results).splitlines() == [
        *FINDING.replace("{{digits/inversion:psnr}}", "24.3 dB").splitlines()[:2],
        "- It is fast.",
        "  In 24.3 dB. (stale)",
        "- Quite.",
    ]
    shown = readme.with_results("".join(readme.MARKS), "", results)
    assert rows(shown)[1][1:] == [
        "[chapter](book/digits/inversion.ipynb)",
        "[chapter](book/mnist/inversion.ipynb) (stale)",
    ]
    assert STALE in shown
    assert STALE not in readme.with_results("".join(readme.MARKS), "", read(root))


def test_verdicts_are_counted(root):
    verdicts = ["reproduced", "partly", "partly", "cannot be tested here"]
    claims = [claim(str(i), verdict=verdict) for i, verdict in enumerate(verdicts)]
    record(root, "digits", "whitening", claims[:3])
    record(root, "digits", "inversion", claims[3:])
    results = read(root)
    assert rows(pages.results_page(results))[1] == ["digits", "4", "1", "2", "0", "1"]
    header, whitening, inversion = rows(pages.summary(results))
    assert header == ["Chapter", "digits"]  # no column for a run without records
    hidden = "{.visually-hidden}"
    for words in ("1 [reproduced]", "2 [partly]"):
        assert words + hidden in whitening[1]
    untested = f"1 [cannot be tested here]{hidden}"
    assert inversion[1] == f"[{untested}]{{.verdict .cannot-be-tested-here}}"
    assert "(/book/digits/inversion.ipynb)" in inversion[0]


def test_chapters_come_in_the_order_of_the_contents(root):
    record(root, "digits", "inversion")
    record(root, "mnist", "inversion")
    record(root, "digits", "whitening")
    assert list(read(root).chapters) == ["whitening", "inversion"]


def test_a_chapter_without_claims_says_so(root):
    record(root, "mnist", "inversion")
    page = pages.results_page(read(root))
    assert "It tests no claim" in page
    assert rows(page)[1] == ["MNIST", "0", "0", "0", "0", "0"]


def test_numbers_run_by_run(root):
    record(root, "digits", "inversion", numbers={"psnr": "24 dB", "d": "64"})
    record(root, "mnist", "inversion", numbers={"psnr": "30 dB"})
    table = rows(pages.results_page(read(root)))
    assert ["inversion", "`psnr`", "24 dB", "30 dB"] in table
    assert ["inversion", "`d`", "64", "–"] in table


@pytest.mark.parametrize("text", ["$|x| < 3$", r"$\|x\|$", "a\nb | c", "|", r"\|"])
def test_pipes_and_line_breaks_stay_in_their_cell(root, text):
    record(root, "digits", "inversion", [claim(text=text, measured=text, paper=text)])
    table = rows(pages.results_page(read(root)))
    (row,) = [row for row in table if ".source" in row[0]]
    one_line = " ".join(text.split())
    assert row[0] == f"{one_line}<br>[Angles & Mallat, §4]{{.source}}"
    assert row[1] == one_line
    assert len(row) == 3


def test_rules_are_given_once_unless_they_differ(root):
    record(root, "digits", "inversion", [claim(), claim("b", rule="if a")])
    record(root, "mnist", "inversion", [claim(), claim("b", rule="if b")])
    page = pages.results_page(read(root))
    assert page.count(": reproduced if 3 ≤ gap ≤ 8\n") == 1
    assert ": if a; or if b\n" in page


def test_status(root):
    record(root, "digits", "whitening")
    record(root, "mnist", "inversion", seconds=3_720)

    def freshness(run, chapter):
        return ["code", "lock"] if run == "mnist" else []

    table = rows(pages.status_page(recorded.read(root, freshness=freshness)))
    assert [row[:2] + row[3:] for row in table[1:4]] == [
        [
            "digits",
            "[whitening](/book/digits/whitening.ipynb)",
            "31 s",
            "CPU, 2 threads",
            "[fresh]{.verdict .reproduced}",
        ],
        [
            "digits",
            "inversion",
            "–",
            "–",
            "[not recorded]{.verdict .cannot-be-tested-here}",
        ],
        [
            "MNIST",
            "[inversion](/book/mnist/inversion.ipynb)",
            "1 h 2 min",
            "CPU, 2 threads",
            "[stale]{.verdict .not-reproduced} code; lock",
        ],
    ]


def test_a_training_that_was_kept_stands_beside(root):
    path = record(root, "digits", "inversion", numbers={"minutes": "60"})
    results = json.loads(path.read_text())
    for minutes, took in [(60.0, "31 s, training 1 h 0 min"), (0.1, "31 s")]:
        results["numbers"]["minutes"]["value"] = minutes
        path.write_text(json.dumps(results))
        assert rows(pages.status_page(read(root)))[2][3] == took


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.7, "1 min"), (3_580, "1 h 0 min")],
)
def test_durations(root, seconds, text):
    record(root, "digits", "whitening", seconds=seconds)
    assert rows(pages.status_page(read(root)))[1][3] == text


def test_versions_that_differ_are_all_shown(root):
    record(root, "digits", "whitening", versions={"torch": "2.12", "numpy": "2"})
    record(root, "digits", "inversion", versions={"torch": "2.13"})
    record(root, "mnist", "inversion", versions={"torch": "2.13"})
    table = rows(pages.status_page(read(root)))
    assert table[-3:] == [
        ["Package", "digits", "MNIST"],
        ["torch", "2.12, 2.13", "2.13"],
        ["numpy", "2", "–"],
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "the file: Invalid JSON"),
        ("[]", "the file: Input should be an object"),
        ('{"chapter": "inversion"}', "run: Field required"),
        (None, "claims.0.verdict: Input should be 'reproduced'"),
    ],
)
def test_malformed_results_are_named_in_one_line(root, text, what):
    path = record(root, "digits", "inversion", [claim(verdict="perhaps")])
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        read(root)
    message = str(caught.value)
    assert str(path) in message and what in message and "RUN=digits" in message
    assert "\n" not in message


def test_results_of_another_run_are_refused(root):
    path = record(root, "digits", "inversion")
    other = root / "book" / "mnist" / "results" / "inversion.json"
    other.parent.mkdir(parents=True)
    other.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="the run 'digits'"):
        read(root)


def test_a_page_that_is_no_chapter_is_refused_in_a_run(root):
    toc = root / "_toc.yml"
    toc.write_text(TOC.replace("book/mnist/inversion", "book/reproducing"))
    with pytest.raises(UserError, match="book/reproducing"):
        read(root)


def test_the_command_ends_in_one_line(monkeypatch):
    def write():
        raise PageError("x.json is not the results of a chapter")

    monkeypatch.setattr(pages, "write", write)
    with pytest.raises(SystemExit, match=r"^PageError: x\.json is not") as caught:
        pages.main()
    assert caught.value.__suppress_context__


# --- README ----------------------------------------------------------------------


FINDING = """- It inverts.
  At {{digits/inversion:psnr}} ([inversion](/book/digits/inversion.ipynb)).
  <!-- digits gap: not reproduced -->
"""


def test_the_readme_shows_findings_and_verdicts(root):
    record(root, "digits", "inversion", [claim(), claim("b", text="It is fast.")])
    record(root, "mnist", "inversion", [claim(verdict="partly")])
    page = root / "README.md"
    page.write_text(f"Before.\n{readme.MARKS[0]}\nold\n{readme.MARKS[1]}\nAfter.\n")
    (root / "book" / "findings.md").write_text(FINDING)
    pages.write(root, freshness=fresh)
    found = (root / "book" / "generated" / "findings.md").read_text()
    assert found.endswith("At 24.3 dB ([inversion](/book/digits/inversion.ipynb)).\n")
    text = page.read_text()
    assert text.startswith("Before.") and text.endswith("After.\n")
    assert "old" not in text
    assert "At 24.3 dB ([inversion](book/digits/inversion.ipynb))." in text
    assert rows(text)[2:] == [
        ["The training error is above the test error. (Angles & Mallat, §4)", "✗", "≈"],
        ["It is fast. (Angles & Mallat, §4)", "✗", ""],
    ]


def test_a_readme_without_marks_is_refused(root):
    with pytest.raises(PageError, match="marks"):
        readme.with_results("nothing", "", read(root))


@pytest.mark.parametrize("gone", ["digits", "inversion:", "psnr"])
def test_findings_quote_recorded_numbers_alone(root, gone):
    record(root, "digits", "inversion")
    with pytest.raises(PageError, match="is not recorded"):
        findings(
            FINDING.replace(gone, "other:" if ":" in gone else "other", 1), read(root)
        )


def test_signs_are_those_of_the_site():
    style = (ROOT / "book" / "_static" / "style.css").read_text(encoding="utf8")
    for verdict, sign in readme.SIGNS.items():
        rule = style.partition(f".verdict.{verdict.replace(' ', '-')} {{")[2]
        assert f'--verdict-sign: "{sign} ";' in rule.partition("}")[0]


def test_the_readme_of_this_book_is_in_step_with_its_records():
    text = (ROOT / "README.md").read_text(encoding="utf8")
    source = (ROOT / "book" / "findings.md").read_text(encoding="utf8")
    results = recorded.read()
    found = findings(source, results).replace("](/", "](")
    assert readme.with_results(text, found, results) == text, "run: make site"


def test_the_findings_of_this_book_agree_with_its_verdicts():
    found = {
        (run, claim.id): claim.verdict
        for (run, _), record in recorded.read().records.items()
        for claim in record.claims
    }
    text = (ROOT / "book" / "findings.md").read_text(encoding="utf8")
    for finding in text.split("\n- ")[1:]:
        said = re.findall(r"<!-- (\S+) (\S+): (.+) -->", finding)
        assert said, f"on which verdict does this rest? {finding}"
        for run, claim, verdict in said:
            assert found[run, claim] == verdict, f"{run}, {claim}: {finding}"


# --- benchmarks ------------------------------------------------------------------


def benchmark(root: Path, name: str, **changes: object) -> Path:
    path = root / "book" / "benchmarks" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "title": "Ours against theirs",
        "machine": {
            "processor": "some",
            "device": "CPU, 2 threads",
            "torch": "2.0",
            "date": "2026-11-21",
        },
        "rows": [{"case": "small", "ratio": "2.5"}, {"case": "a|b", "ratio": "3.0"}],
        "cases": [],
        **changes,
    }
    path.write_text(json.dumps(content), encoding="utf8")
    return path


def test_benchmarks_are_shown_with_their_machine(root):
    benchmark(root, "scattering")
    benchmark(root, "scattering.cuda", title="The same on a GPU")
    pages.write(root, freshness=fresh)
    page = (root / "book/generated/benchmarks/scattering.md").read_text(encoding="utf8")
    table, of_gpu = page.strip().split("\n\n~~~{table} ")
    inside = table.partition("\n")[2].removesuffix("~~~")
    assert rows(inside) == [["case", "ratio"], ["small", "2.5"], ["a|b", "3.0"]]
    assert table.startswith("~~~{table} Ours against theirs. Measured by ")
    assert "`benchmarks/scattering.py` on 2026-11-21: some, CPU, 2 threads" in table
    assert of_gpu.startswith(
        "The same on a GPU. Measured by `benchmarks/scattering.py`"
    )


def test_a_benchmark_that_is_not_kept_says_so(root):
    benchmark(root, "scattering")
    tables = pages.benchmark_tables(root)
    assert tuple(tables) == pages.BENCHMARKS
    assert tables["whitening"].startswith("Not measured yet")


@pytest.mark.parametrize("damage", [{"rows": 3}, {"rows": []}, {"machine": {}}])
def test_what_is_no_benchmark_is_named(root, damage):
    path = benchmark(root, "scattering", **damage)
    with pytest.raises(UserError, match=f"{path} is not the results of a benchmark"):
        pages.benchmark_tables(root)


def test_the_benchmarks_of_this_book_are_measured_and_shown():
    measured = {f.name.split(".")[0] for f in ROOT.glob("book/benchmarks/*.json")}
    page = (ROOT / "book" / "performance.md").read_text(encoding="utf8")
    shown = re.findall(r"generated/benchmarks/(\w+)\.md", page)
    made = re.search("for name in ([a-z_ ]+);", (ROOT / "Makefile").read_text())
    assert list(pages.BENCHMARKS) == shown == made[1].split()
    assert measured <= set(shown)
