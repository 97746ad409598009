"""Paper: a manuscript about runs as Markdown and LaTeX, whose numbers come from the runs."""

from mbrl_lab.paper.write import write_paper

__all__ = ["write_paper"]
