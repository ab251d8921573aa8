"""What all generated Markdown is made of: a line, and a table."""


def line(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def table(
    header: list[str], rows: list[list[str]], *, align: str = "", css: str = ""
) -> str:
    """Return a MyST table; `align` gives l or r a column, `css` a class."""
    rule = {"l": ":--", "r": "--:"}
    rows = [header, [rule[a] for a in align.ljust(len(header), "l")], *rows]
    # A pipe would end the cell; MyST takes the backslash away, also in formulas.
    escaped = [[line(cell).replace("|", r"\|") for cell in row] for row in rows]
    text = "".join(f"| {' | '.join(row)} |\n" for row in escaped)
    return (f"{{.{css}}}\n" if css else "") + text + "\n"
