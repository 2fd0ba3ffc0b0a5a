"""Debian's control data: paragraphs of `Field: value` lines (deb822(5)).

    >>> parse("Package: apt\\nVersion: 3.0\\nDescription: tool\\n more\\n")
    {'Package': 'apt', 'Version': '3.0', 'Description': 'tool\\n more'}

Invariants: field names keep their spelling and order; a continuation line keeps its leading space, so that
`show` gives back what `parse` read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vpod.errors import VerificationFailed


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a file, separated by empty lines, without comment lines."""
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.startswith("#"):
            continue
        if line.strip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []


def parse(paragraph: str, name: str = "control data") -> dict[str, str]:
    """One paragraph's fields; `VerificationFailed` naming `name` for a line that is no field or stands twice."""
    fields: dict[str, list[str]] = {}  # lines
    last = ""
    for line in paragraph.rstrip("\n").split("\n"):
        if line[:1] in (" ", "\t"):
            if not last:
                raise VerificationFailed(f"{name}: begins with a continuation line; it is damaged")
            fields[last].append(line)
            continue
        last, colon, value = line.partition(":")
        if not colon or not last or last in fields or " " in last:
            raise VerificationFailed(f"{name}: {line[:60]!r} is no field; it is damaged")
        fields[last] = [value.strip()]
    return {key: "\n".join(lines) for key, lines in fields.items()}


def show(fields: Mapping[str, str]) -> str:
    """A paragraph as text, each field on its line, without the empty line behind it."""
    return "".join(f"{key}: {value}\n" if value[:1] != "\n" else f"{key}:{value}\n" for key, value in fields.items())
