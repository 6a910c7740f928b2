"""The report of a comparison: one page to read in a browser or to print, and the same in Markdown."""

from graft.eval.report.writing import MARKDOWN, PAGE, write_report

__all__ = ["MARKDOWN", "PAGE", "write_report"]
