"""Judging in a process of its own, `python -m ml_service.pipeline.judging.process FOLDER [NICENESS]`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from lib.files import NO_ROOM, write_json
from lib.processes import end_with_parent
from ml_service.common.errors import InsufficientStorage, ServiceError
from ml_service.data.batch_report import StoredError
from ml_service.pipeline.judging.question import PROGRESS_FILE, QUESTION_FILE, REPORT_FILE, Question
from ml_service.pipeline.judging.stage import judge
from ml_service.utils.handing_on import in_child

_TELL_EVERY_S = 0.5


def main() -> None:
    """Read the question, write the report, or in its place what was wrong; end with the parent."""
    end_with_parent()
    os.nice(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    in_child(traces=False)
    folder = Path(sys.argv[1])
    question = Question.model_validate_json((folder / QUESTION_FILE).read_bytes())
    try:
        report = judge(folder, question, _Teller(folder)).model_dump(mode="json")
    except ServiceError as error:
        report = {"error": StoredError.of(error).model_dump()}
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        full = InsufficientStorage("the disk has too little room for the table of rows")
        report = {"error": StoredError.of(full).model_dump()}
    write_json(folder / REPORT_FILE, report)


class _Teller:
    """Writes the progress now and then."""

    def __init__(self, folder: Path) -> None:
        self._path, self._told, self._began = folder / PROGRESS_FILE, 0.0, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        moment = time.monotonic()
        if moment - self._told < _TELL_EVERY_S and done != total:
            return
        self._told = moment
        eta_s = round((moment - self._began) / done * (total - done), 1)
        scratch = self._path.with_suffix(".new")
        scratch.write_text(json.dumps({"done": done, "total": total, "eta_s": eta_s}), encoding="utf-8")
        scratch.replace(self._path)


if __name__ == "__main__":
    main()
