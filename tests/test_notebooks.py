"""The chapters as they are written."""

import re

import jupytext
import nbformat
import pytest

from latent_scattering import parameters, paths, record

CHAPTERS = parameters.chapters()


def cells(chapter, kind):
    return [c for c in record.read_source(chapter).cells if c.cell_type == kind]


def test_every_source_has_its_pair():
    assert sorted(file.stem for file in paths.NOTEBOOKS.glob("*.md")) == CHAPTERS


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_pair_is_in_step_and_without_outputs(chapter):
    source = jupytext.read(paths.NOTEBOOKS / f"{chapter}.md")
    pair = nbformat.read(paths.NOTEBOOKS / f"{chapter}.ipynb", as_version=4)
    assert [(c.cell_type, c.source) for c in source.cells] == [
        (c.cell_type, c.source) for c in pair.cells
    ], f"run: jupytext --sync notebooks/{chapter}.md"
    assert not any(c.get("outputs") for c in pair.cells)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_begins_with_parameters_and_ends_with_provenance(chapter):
    code = cells(chapter, "code")
    assert code[0].metadata.tags == ["parameters"]
    assert f'chapter = Chapter("{chapter}", locals())' in code[1].source
    assert code[-1].source == "chapter.close()"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_figures_have_name_caption_and_alt_text(chapter):
    for cell in cells(chapter, "code"):
        if re.search(r"\bsubplots\(|plt\.figure\(|show_images\(", cell.source):
            book = cell.metadata["mystnb"]
            assert book["figure"]["name"].startswith("fig-")
            assert len(book["figure"]["caption"]) > 40
            assert len(book["image"]["alt"]) > 40
            # nbval does not know `;`: a value left at the end would be printed.
            last = cell.source.rstrip().splitlines()[-1].strip()
            assert last in ("plt.show()", ")") or last.startswith(
                ("figures.show_images(", "ax.set_axis_off(")
            )


def test_labels_are_unique_in_the_book():
    labels = []
    for chapter in CHAPTERS:
        source = (paths.NOTEBOOKS / f"{chapter}.md").read_text()
        labels += re.findall(r"^ +name: (fig-\S+)", source, re.M)
        labels += re.findall(r'"(tab-\S+)"', source)
    assert sorted(labels) == sorted(set(labels))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_functions_in_chapters_are_short(chapter):
    for cell in cells(chapter, "code"):
        for body in re.findall(r"^def .*\n((?: +.*\n?|\n)+)", cell.source, re.M):
            assert len(body.strip().splitlines()) <= 8


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_numbers_in_prose_are_glued(chapter):
    glued = re.findall(
        r"{glue:text}`([\w-]+)`", (paths.NOTEBOOKS / f"{chapter}.md").read_text()
    )
    code = "\n".join(c.source for c in cells(chapter, "code"))
    assert glued
    for key in set(glued):
        made = re.sub(r"-[a-z0-9-]+$", "", key)
        assert f'"{key}"' in code or f'f"{made}' in code or key.startswith("verdict-")
    for cell in cells(chapter, "markdown"):
        prose = re.sub(r"\$[^$]*\$|`[^`]*`|\[[^\]]*\]\([^)]*\)", "", cell.source)
        # A measurement has decimals or a percent sign; a paper's stands by its source.
        for line in prose.splitlines():
            if re.search(r"\d\.\d|\d ?%", line):
                assert re.search(r"paper|would give|stretch of", line), line
