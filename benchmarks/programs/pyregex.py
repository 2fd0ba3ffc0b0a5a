"""Regular expressions in CPython: compiled, searched, split, replaced, with groups and backtracking.

Known: how many lines of each kind were written; prints the counts and a sum over what the groups caught.
"""

import re

LINE = re.compile(
    r'(?P<host>\d+\.\d+\.\d+\.\d+) - (?P<user>\w+|-) \[(?P<time>[^\]]+)\] "(GET|POST) (\S+)" (\d{3}) (\d+)'
)
WORD = re.compile(r"\b([a-z]+)(\d*)\b")
NESTED = re.compile(r"(?:[a-z]+/)*[a-z]+\d+\.html$")


def log(lines: int) -> str:
    """A web server's log; each eleventh line is no entry."""
    made = []
    for i in range(lines):
        if i % 11 == 10:
            made.append(f"broken line {i} with no address")
        else:
            method, user = ("GET", "POST")[i % 5 == 4], ("-", f"user{i % 17}")[i % 3 == 2]
            time, path = f"{i % 28 + 1:02}/Nov/2026:12:{i % 60:02}", f"/a/b{i % 7}/page{i % 101}.html"
            made.append(
                f'10.0.{i % 256}.{i * 7 % 256} - {user} [{time}] "{method} {path}" {200 + i % 5 * 100} {i * 13}'
            )
    return "\n".join(made)


def work(text: str, lines: int) -> tuple[int, ...]:
    """Entries, posts, bytes, pages, words."""
    entries = [match for match in map(LINE.match, text.split("\n")) if match]
    assert len(entries) == sum(1 for i in range(lines) if i % 11 != 10)
    posts = sum(match[4] == "POST" for match in entries)
    pages = sum(NESTED.search(match[5].lstrip("/")) is not None for match in entries)
    hidden = re.sub(r"\d+\.\d+(\.\d+)\.\d+", r"x.x\1.x", text)
    assert hidden.count("x.x.") == len(entries)
    return len(entries), posts, sum(int(match[7]) for match in entries), pages, len(WORD.findall(text))


if __name__ == "__main__":
    print("pyregex", *work(log(4000), 4000))
