"""The samples in `data/samples`, to try each route with: `python -m tests.samples` writes them anew."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

from PIL import Image

from ml_service.common.settings import PROJECT
from tests.rendered_images import render

FOLDER = PROJECT / "data" / "samples"
_LIGHT = ("#ffffff", "#1f2328", "#cf222e", "#6e7781")
_DARK = ("#1e1e1e", "#d4d4d4", "#569cd6", "#6a9955")
"""Background, text, keywords, comments."""
_WHEN = (2026, 1, 1, 0, 0, 0)

CODE = '''import json
from pathlib import Path


class Inventory:
    """Things and how many of them there are."""

    def __init__(self, path):
        self.path = Path(path)
        self.items = {}

    def load(self):
        with self.path.open() as file:
            self.items = json.load(file)

    def add(self, name, count=1):
        if count < 1:
            raise ValueError("count must be positive")
        self.items[name] = self.items.get(name, 0) + count

    def remove(self, name):'''
PAIRS = [
    ("def double(number):\n    return ", "number * 2"),
    ("for index in range(", "10):"),
    ("import os\nprint(os.path.", "join("),
    ('with open("notes.txt") as ', "file:"),
    ("try:\n    value = int(text)\nexcept ", "ValueError:"),
    ("if name is not ", "None:"),
]
ROWS: list[str | dict[str, object]] = [
    "def read_lines(path):",
    {"text": "import os\nimport ", "id": "imports", "max_new_tokens": 8},
    {"text": "PORT = ", "id": "port", "regex": "[0-9]{4}"},
    {"text": "class Queue:\n    def push(self, item):", "id": "queue", "temperature": 0.5, "seed": 7},
    "# Sort the names by their length.\n",
]
IMAGES = {
    "area.png": ("def area(width, height):\n    return width * height", _LIGHT),
    "greet.png": ('def greet(name):\n    message = "Hello, " + name\n    print(message)', _DARK),
    "total.png": ("total = 0\nfor price in prices:\n    total += price", _LIGHT),
    "notes/reading.jpg": ("A picture of text is as good\na request as a string.", _LIGHT),
}


def write_samples(folder: Path) -> None:
    """Write all of them into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.csv").write_text(
        table([("id", "text"), *((f"prompt-{number}", prompt) for number, (prompt, _) in enumerate(PAIRS, 1))]),
        encoding="utf-8",
    )
    (folder / "pairs.csv").write_text(table([("prompt", "target"), *PAIRS]), encoding="utf-8")
    (folder / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS), encoding="utf-8")
    render(CODE, "DejaVuSansMono", 16, _DARK, is_code=True).quantize(64).save(folder / "code.png", optimize=True)
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        labels = [("image", "target"), *((name, text) for name, (text, _) in IMAGES.items())]
        archive.writestr(zipfile.ZipInfo("labels.csv", _WHEN), table(labels))
        for name, (text, colours) in IMAGES.items():
            is_code = name.endswith(".png")
            picture = render(text, "DejaVuSansMono" if is_code else "DejaVuSans", 18, colours, is_code)
            archive.writestr(zipfile.ZipInfo(name, _WHEN), _packed(picture, "PNG" if is_code else "JPEG"))


def table(rows: list[tuple[str, str]]) -> str:
    """As CSV."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def _packed(picture: Image.Image, format: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, format)
    return file.getvalue()


if __name__ == "__main__":
    write_samples(FOLDER)
