"""The document as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mbrl_lab.paper import document as d
from mbrl_lab.paper.literature import Entry


def markdown(document: d.Document, library: Mapping[str, Entry]) -> str:
    """The whole file; references are a list at its end."""
    head: list[d.Block] = [d.Heading(0, document.title), d.Heading(1, "Abstract"), document.abstract]
    body = [block_text(block, library) for block in (*head, *document.blocks, d.Heading(1, "References"))]
    entries = [f"- {escape(library[key].text)}" for key in d.cited(document)]
    return "\n\n".join([*body, "\n".join(entries)]) + "\n"


def block_text(block: d.Block, library: Mapping[str, Entry]) -> str:
    match block:
        case d.Heading(level, text):
            return f"{'#' * (level + 1)} {escape(text)}"
        case d.Paragraph(spans):
            return "".join(span_text(span, library) for span in spans)
        case d.Listing(text):
            fence = "`" * max(3, *(len(found) + 1 for found in re.findall("`+", text)), 0)
            return f"{fence}\n{text}\n{fence}"
        case d.Picture(stem, caption, _):
            return f"![{escape(caption)}](figures/{stem}.png)\n\n*{escape(caption)}*"
        case d.Tabular(caption, columns, rows):
            lines = [[escape(column) for column in columns], ["---"] * len(columns)]
            lines += [[span_text(cell, library) for cell in row] for row in rows]
            return "\n".join([f"*{escape(caption)}*", "", *(f"| {' | '.join(line)} |" for line in lines)])


def span_text(span: d.Span, library: Mapping[str, Entry]) -> str:
    match span:
        case d.Cite(keys):
            return f"({'; '.join(escape(library[key].short) for key in keys)})"
        case d.Todo(text):
            return f"**[write: {escape(text)}]**"
        case d.Code(text):
            # Neither a line's end nor a table's bar may stand in a cell, and code has no escapes.
            return f"`{one_line(text).replace('`', chr(39)).replace('|', '/')}`" if text.strip() else "-"
        case d.Number(_, text):
            return escape(text)
    return escape(span)


def escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", one_line(text))


def one_line(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f]+", " ", text)
