"""The report of a comparison: one page to read in a browser or to print, the same in Markdown, and single pictures."""

from graft.eval.report.inline import figures
from graft.eval.report.writing import MARKDOWN, PAGE, write_report

__all__ = ["MARKDOWN", "PAGE", "figures", "write_report"]
