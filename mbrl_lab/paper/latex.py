"""The document as LaTeX, for packages that every TeX distribution has."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Mapping

from mbrl_lab.paper import document as d
from mbrl_lab.report.page.content import NUMERIC

PREAMBLE = r"""\documentclass{article}
\usepackage[margin=1in]{geometry}
\usepackage{array,booktabs,float,graphicx,longtable,xcolor}
\usepackage[round]{natbib}
\usepackage[font=small,skip=6pt]{caption}
\usepackage[hidelinks]{hyperref}
% \todo marks what a person must write.
\newcommand{\todo}[1]{\textcolor{red}{[write: #1]}}
% \val{KEY} is a number of the runs: numbers.json names the runs of each key.
\newcommand{\defval}[2]{\expandafter\def\csname val@#1\endcsname{#2}}
\newcommand{\val}[1]{\csname val@#1\endcsname}
\input{numbers}
\setlength{\tabcolsep}{4pt}
\setlength{\LTcapwidth}{\linewidth}
\emergencystretch=3em
"""

LETTERS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{letter: f"\\{letter}" for letter in "{}_%&#$"},
}

PAGE = 100
"""Letters of a table's line; the columns of a wider table break their lines."""

SHORT = 20
"""Rows of a table that is not divided between pages."""

LISTING = 120
"""Letters of a listing's line."""


def latex(document: d.Document) -> str:
    """paper.tex, beside which numbers.tex and references.bib lie."""
    body = "\n\n".join(map(block_text, document.blocks))
    return rf"""{PREAMBLE}
\title{{{escape(document.title)}\\ \todo{{a title}}}}
\author{{\todo{{authors and affiliations}}}}

\begin{{document}}
\maketitle

\begin{{abstract}}
{block_text(document.abstract)}
\end{{abstract}}

{body}

\bibliographystyle{{plainnat}}
\bibliography{{references}}
\end{{document}}
"""


def definitions(values: Mapping[str, str]) -> str:
    """numbers.tex: the value of each key. A minus is no hyphen."""
    minus = {key: re.sub(r"(?<![\w)])-(?=[\d.])", "$-$", escape(value)) for key, value in values.items()}
    return "".join(f"\\defval{{{key}}}{{{value}}}\n" for key, value in minus.items())


def block_text(block: d.Block) -> str:
    match block:
        case d.Heading(level, text):
            return f"\\{'sub' * (level - 1)}section{{{escape(text)}}}"
        case d.Paragraph(spans):
            return "".join(map(span_text, spans))
        case d.Listing(text):
            lines = "\n".join(wrapped(known(line)) for line in text.replace(r"\end{", r"\end {").splitlines())
            return f"{{\\scriptsize\n\\begin{{verbatim}}\n{lines}\n\\end{{verbatim}}\n}}"
        case d.Picture(stem, caption, width):
            picture = f"\\includegraphics[width={width}\\linewidth]{{figures/{stem}}}\n\\caption{{{escape(caption)}}}"
            return f"\\begin{{figure}}[H]\n\\centering\n{picture}\n\\end{{figure}}"
        case d.Tabular():
            return table_text(block)


def table_text(table: d.Tabular) -> str:
    """A short table in one piece; a long one may continue on the next page."""
    header = r"\toprule" + "\n" + " & ".join(map(escape, table.columns)) + r" \\" + "\n" + r"\midrule"
    lines = "\n".join(" & ".join(map(span_text, row)) + r" \\" for row in table.rows)
    caption, form = rf"\caption{{{escape(table.caption)}}}", f"{{@{{}}{columns(table)}@{{}}}}"
    if len(table.rows) <= SHORT:
        return (
            f"\\begin{{table}}[H]\n\\centering\n\\footnotesize\n{caption}\n\\begin{{tabular}}{form}\n"
            f"{header}\n{lines}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}"
        )
    return (
        f"{{\\footnotesize\n\\begin{{longtable}}{form}\n{caption}\\\\\n{header}\n\\endfirsthead\n"
        f"{header}\n\\endhead\n\\bottomrule\n\\endfoot\n{lines}\n\\end{{longtable}}\n}}"
    )


def columns(table: d.Tabular) -> str:
    """Columns as wide as their cells, or with broken lines where all of them are too wide for a page."""
    longest = d.widths(table)
    if sum(longest) + 2 * len(longest) <= PAGE:
        texts = zip(*([d.plain(cell) for cell in row] for row in table.rows), strict=True)
        return "".join("r" if all(map(NUMERIC.fullmatch, column)) else "l" for column in texts)
    bounded = [min(max(width + 1, 8), 40) for width in longest]
    fractions = [(1 - 0.02 * len(bounded)) * width / sum(bounded) for width in bounded]
    return "".join(rf">{{\raggedright\arraybackslash}}p{{{fraction:.3f}\linewidth}}" for fraction in fractions)


def span_text(span: d.Span) -> str:
    match span:
        case d.Cite(keys):
            return f"\\citep{{{','.join(keys)}}}"
        case d.Todo(text):
            return f"\\todo{{{escape(text)}}}"
        case d.Code(text):
            # Long names may break after a dot, a dash, an underscore, a slash or an equals sign.
            breaking = re.sub(r"([./=,_-])", r"\1\\allowbreak{}", escape(text))
            return f"\\texttt{{{breaking}}}"
        case d.Number(key, _):
            return f"\\val{{{key}}}"
    return escape(span)


def escape(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(LETTERS.get(letter, letter) for letter in known(text))


def known(text: str) -> str:
    """Text of letters that LaTeX has without further packages; others by their numbers."""
    return "".join(x if x.isprintable() and ord(x) < 0x180 else substitute(x) for x in text)


def substitute(letter: str) -> str:
    if letter.isspace() or not letter.isprintable():
        return " "
    simple = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return simple or f"[U+{ord(letter):04X}]"


def wrapped(line: str) -> str:
    """A line of a listing in lines that fit the page."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return "\n".join(textwrap.wrap(line, LISTING, subsequent_indent=indent, drop_whitespace=True)) or ""
