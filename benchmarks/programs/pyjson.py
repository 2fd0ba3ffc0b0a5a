"""JSON in CPython: a nested document written, read and compared, by the module's C code and by its Python code.

Known: what is read equals what was written; prints how long the texts are and their checksum.
"""

import json
import zlib
from json.encoder import py_encode_basestring


def document(seed: int) -> dict[str, object]:
    """Lists, tables, texts with escapes, whole and broken numbers, true, false and null."""
    rows = [
        {
            "id": seed * 1000 + i,
            "name": f'row {i} "quoted" \\ naïve \u2028',
            "share": (i * 37 % 101) / 8,
            "tags": [f"t{tag}" for tag in range(i % 6)],
            "flags": {"on": i % 2 == 0, "off": i % 3 == 0, "none": None},
        }
        for i in range(200)
    ]
    return {"seed": seed, "rows": rows, "nested": [[[[seed] * 3] * 3] * 3] * 3}


def work(seed: int) -> tuple[int, int]:
    """Length and checksum of a document's text."""
    made = document(seed)
    text = json.dumps(made, indent=seed % 2 or None, sort_keys=True)  # indentation is the Python code's work
    assert json.loads(text) == made
    name = f'row {seed} "quoted" \\ naïve'
    assert json.loads(py_encode_basestring(name)) == name
    return len(text), zlib.crc32(text.encode())


if __name__ == "__main__":
    found = [work(seed) for seed in range(24)]
    print("pyjson", sum(length for length, _ in found), found[-1][1])
