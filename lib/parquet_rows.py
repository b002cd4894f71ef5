"""Rows of Parquet files, a few at a time: of a file of one large group, too, little is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

_ROWS_AT_ONCE = 64


class ParquetRows:
    """An open file."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError where it is none."""
        try:
            # Without a buffer of its own a column of a row group is read whole, and files of one group are common.
            self._file = pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        except pyarrow.ArrowException as error:
            raise ValueError(str(error)) from error

    @property
    def columns(self) -> list[str]:
        """Their names."""
        return list(self._file.schema_arrow.names)

    def rows(self, columns: Sequence[str], at_once: int = _ROWS_AT_ONCE) -> Iterator[dict[str, Any]]:
        """The rows with these columns, so many in memory. Raises ValueError where the file is broken."""
        try:
            for batch in self._file.iter_batches(columns=list(columns), batch_size=at_once):
                yield from batch.to_pylist()
        except MemoryError:  # pyarrow's own is both
            raise
        except pyarrow.ArrowException as error:
            raise ValueError(str(error)) from error
