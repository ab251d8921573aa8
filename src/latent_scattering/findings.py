"""The findings of the book: sentences of its first page, with recorded numbers put in.

``book/findings.md`` has ``{{run/chapter:number}}`` where a number belongs, and names,
in comments, the verdicts that each finding rests on.
"""

import re

from latent_scattering.results import PageError, Results

NUMBER = re.compile(r"\{\{([^/{}]+)/([^:{}]+):([^{}]+)\}\}")
COMMENT = re.compile(r"[ \n]*<!--.*?-->", re.DOTALL)


def findings(text: str, results: Results) -> str:
    """Return the findings with the numbers that the records hold, without comments.

    Those that rest on a stale record say so.

    Raises
    ------
    PageError
        If it quotes a number that is not recorded.
    """

    def number(match: re.Match[str]) -> str:
        run, chapter, key = match.groups()
        record = results.records.get((run, chapter))
        if record is None or key not in record.numbers:
            raise PageError(
                f"book/findings.md: the number {match[0]} is not recorded; "
                f"record it (make run RUN={run}), or name another"
            )
        return record.numbers[key].text

    def marked(item: str) -> str:
        quoted = {(m[1], m[2]) for m in NUMBER.finditer(item)}
        stale = any(results.stale.get(record) for record in quoted)
        return f"{item} (stale)" if stale else item

    items = COMMENT.sub("", text).strip().split("\n- ")
    return NUMBER.sub(number, "\n- ".join(map(marked, items))) + "\n"
