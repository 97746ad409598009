"""The page as text: template, style, script, and the library that draws the charts, all in one file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent


def render(content: Mapping[str, Any], version: str | None = None) -> str:
    """The page. All text of the runs is escaped. A page with a `version` asks its server for newer ones."""
    # Names of runs, errors and configs are somebody else's text, so autoescape is on for the whole template.
    jinja = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    parts = {"style": inline("report.css"), "script": inline("report.js"), "library": library()}
    return jinja.get_template("report.html").render(**content, **parts, version=version)


def inline(name: str) -> Markup:
    """A file of this folder for the page."""
    return Markup((HERE / name).read_text(encoding="utf-8"))


@cache  # bundling takes seconds
def library() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # A string of the script must not end the element that holds it.
    return Markup(script.replace("</script", "<\\/script").replace("<!--", "<\\!--"))
