"""A document of headings, paragraphs, tables, listings and pictures, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Number(NamedTuple):
    """A value that comes from runs; `key` is its name in numbers.json."""

    key: str
    text: str


class Cite(NamedTuple):
    """Entries of references.bib."""

    keys: tuple[str, ...]


class Todo(NamedTuple):
    """What a person must write."""

    text: str


class Code(NamedTuple):
    """A setting, a name, a path."""

    text: str


Span = str | Number | Cite | Todo | Code


class Heading(NamedTuple):
    level: int  # 1: a section
    text: str


class Paragraph(NamedTuple):
    spans: tuple[Span, ...]


class Listing(NamedTuple):
    """Lines as they are: pseudo-code, commands."""

    text: str


class Tabular(NamedTuple):
    caption: str
    columns: list[str]
    rows: list[list[Span]]


class Picture(NamedTuple):
    """A figure, of which there are a PDF and a PNG of this name."""

    stem: str
    caption: str
    width: float = 1.0  # of the page


Block = Heading | Paragraph | Listing | Tabular | Picture


class Document(NamedTuple):
    title: str
    abstract: Paragraph
    blocks: list[Block]


def paragraph(*spans: Span) -> Paragraph:
    """A paragraph of spans that are joined without a space."""
    return Paragraph(spans)


def spans_of(document: Document) -> Iterator[Span]:
    """Everything that stands in paragraphs and cells, in order."""
    for block in (document.abstract, *document.blocks):
        if isinstance(block, Paragraph):
            yield from block.spans
        elif isinstance(block, Tabular):
            yield from (cell for row in block.rows for cell in row)


def cited(document: Document) -> list[str]:
    """The keys of references, in the order of their first appearance."""
    found = (span.keys for span in spans_of(document) if isinstance(span, Cite))
    return list(dict.fromkeys(key for keys in found for key in keys))


def widths(table: Tabular) -> list[int]:
    """Letters of the longest cell of each column."""
    rows: Sequence[Sequence[Span]] = [list(table.columns), *table.rows]
    return [max(len(plain(cell)) for cell in column) for column in zip(*rows, strict=True)]


def plain(span: Span) -> str:
    """The letters of a cell."""
    if isinstance(span, Cite):
        return ", ".join(span.keys)
    return span if isinstance(span, str) else span.text


def todos(document: Document) -> int:
    """How many places a person must write."""
    return sum(isinstance(span, Todo) for span in spans_of(document))
