"""The report as Markdown, for a repository or a pull request."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from graft.eval.report.contents import Answered, Contents, Example, Group
from graft.eval.report.pictures import caption, full_title
from graft.eval.report.tables import Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$<>&:@-])")


def escape(text: str) -> str:
    """Text that Markdown shows literally, in one line."""
    return _SPECIAL.sub(_escaped, " ".join(text.split()))


def _escaped(found: re.Match[str]) -> str:
    """A reference where HTML would read on behind a backslash, or where a backslash would not be enough in a cell."""
    character = found.group(1)
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;"}.get(character, f"\\{character}")


def markdown(contents: Contents, out: Path, drawn: Sequence[Path]) -> str:
    """Lay a report out as Markdown.

    Args:
        contents: What stands in it.
        out: Folder that it will lie in.
        drawn: Files of the pictures, in their order; empty where none were drawn.
    """
    lines = [f"# {escape(contents.title)}", "", escape(contents.summary), ""]
    if contents.missing is not None:
        lines += [f"**{len(contents.missing.rows)} missing: see below.**", ""]
    sections = {
        "What the evidence supports": [line for group in contents.findings for line in _findings(group)],
        "Pictures": _pictures(contents, out, drawn) if drawn else [],
        "Scores and costs": [line for group in contents.tables for line in _tabled(group)],
        "What the data can decide": [line for group in contents.power for line in _tabled(group)],
        "Examples on which methods disagree": [line for example in contents.examples for line in _example(example)],
        "How it was done": _tables(contents.protocol),
        "Missing runs": [] if contents.missing is None else _tables([contents.missing]),
        "Warnings": _list(contents.warnings),
        "To make it again": _code(contents.commands) if contents.commands else [],
    }
    lines += [line for title, found in sections.items() if found for line in (f"## {title}", "", *found)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _findings(group: Group) -> list[str]:
    sentences = (f"- **{escape(one.method)}**: {escape(one.sentence)}" for one in group.findings)
    return [f"### {escape(group.title)}", "", *sentences, ""]


def _tabled(group: Group) -> list[str]:
    return [f"### {escape(group.title)}", "", *_tables(group.tables), *_list(group.sentences)]


def _list(sentences: Sequence[str]) -> list[str]:
    return [*(f"- {escape(sentence)}" for sentence in sentences), ""] if sentences else []


def _tables(tables: Sequence[Table]) -> list[str]:
    lines: list[str] = []
    for table in tables:
        numbers = [
            bool(table.rows) and any(row[column].number for row in table.rows) for column in range(len(table.headings))
        ]
        lines += [f"{escape(table.caption)}:", "", _row(table.headings)]
        lines.append("|" + "|".join(" ---: " if number else " --- " for number in numbers) + "|")
        lines += [_row([cell.text for cell in row]) for row in table.rows]
        lines.append("")
    return lines


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(escape, cells)) + " |"


def _pictures(contents: Contents, out: Path, drawn: Sequence[Path]) -> list[str]:
    lines = []
    known: set[str] = set()
    for picture, file in zip(contents.all_pictures, drawn, strict=True):
        target = quote(Path(os.path.relpath(file, out)).as_posix())
        lines += [
            f"![{escape(picture.told)}]({target})",
            "",
            f"{escape(full_title(picture))}. {escape(caption(picture, known))}",
            "",
        ]
    return lines


def _example(example: Example) -> list[str]:
    texts = [f"> {escape(text)}\n>" for text in example.texts] or ["> (its text is not beside the runs)\n>"]
    answers = [f"- {_mark(answer)}{escape(answer.method)}: {escape(answer.told)}" for answer in example.answers]
    return [f"### {escape(example.title)}", "", *texts, f"> Truth: {escape(example.label)}", "", *answers, ""]


def _mark(answer: Answered) -> str:
    return "" if answer.right is None else "✓ " if answer.right else "✗ "


def _code(text: str) -> list[str]:
    """A fenced block, with a fence that does not occur in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}bash", text.rstrip("\n"), fence, ""]
