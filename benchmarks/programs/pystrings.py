"""Texts in CPython: made, split, joined, searched, replaced, formatted, encoded.

Known: whatever is done to the text is undone and compared; prints counts and a checksum.
"""

import zlib

WORDS = ["sandbox", "hart", "trap", "page", "fence", "queue", "snapshot", "timer", "naïve", "Überlauf"]


def make(turn: int, lines: int) -> str:
    """Lines that differ from turn to turn."""
    return "\n".join(
        f"{turn:04d}:{line:05x} {WORDS[(turn + line) % len(WORDS)]} {WORDS[line * 7 % len(WORDS)]:>12}|{line / 8:.3f}"
        for line in range(lines)
    )


def work(turn: int) -> tuple[int, int, int]:
    """Lines that name a page, vowels, and a checksum."""
    text = make(turn, 400)
    lines = text.split("\n")
    words = [word.strip("|:") for line in lines for word in line.split()]
    assert "\n".join(lines) == text and text[::-1][::-1] == text
    assert text.replace("page", "\0").replace("\0", "page") == text
    assert text.encode().decode() == text and text.title().casefold() == text.casefold()
    pages = sum("page" in line and not line.endswith("0") for line in lines)
    vowels = sum(text.count(letter) for letter in "aeiou")
    return pages, vowels, zlib.crc32(" ".join(sorted(words, key=str.lower)).upper().encode())


if __name__ == "__main__":
    found = [work(turn) for turn in range(54)]
    print("pystrings", sum(pages for pages, _, _ in found), sum(vowels for _, vowels, _ in found), found[-1][2])
