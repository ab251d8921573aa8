"""The table of contents of the book: which chapters of which runs it shows."""

from collections.abc import Iterable
from pathlib import Path

import yaml

from latent_scattering.errors import UserError


class ContentsError(UserError):
    """The table of contents is not what it should be."""


def listed(root: Path) -> Iterable[tuple[str, str, str]]:
    """Yield (caption, run, chapter) of the parts of ``_toc.yml`` called "Run: …".

    Raises
    ------
    ContentsError
        If such a part lists something else than ``book/<run>/<chapter>``.
    """
    toc = root / "_toc.yml"
    for part in yaml.safe_load(toc.read_text(encoding="utf8")).get("parts", []):
        caption = part["caption"]
        if not caption.startswith("Run: "):
            continue
        for entry in part["chapters"]:
            match entry["file"].removesuffix(".ipynb").split("/"):
                case ["book", run, chapter]:
                    yield caption.removeprefix("Run: "), run, chapter
                case _:
                    raise ContentsError(
                        f"{toc}: {entry['file']!r} stands in the part {caption!r}; "
                        "only book/<run>/<chapter> may: move it to another part."
                    )
