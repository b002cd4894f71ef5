"""What clients send to be learned from, and what they are told of the data set, with examples that work when pasted."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from lib.file_names import LONGEST_SLUG, SLUG_PATTERN
from ml_service.data.batch_report import BatchReport, RejectedRow
from ml_service.data.datasets import AddedBatch, AddedVersion, counts_in
from ml_service.data.tables import DataBatch
from ml_service.data.version_manifest import Amount, Counts, VersionManifest, total

_VISIBLE = r"^[^\x00-\x1f\x7f]+$"
Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64, pattern=_VISIBLE)]
EXAMPLE: dict[str, JsonValue] = {
    "texts": ["def area(radius):\n    return 3.14159 * radius ** 2\n", {"text": "import math\nprint(math.pi)\n"}],
    "name": "my-code",
    "licence": "MIT",
    "tags": ["python"],
}


class UploadDetails(BaseModel):
    """What the sender says of the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(
        None, pattern=SLUG_PATTERN, max_length=LONGEST_SLUG,
        description="The source: lower-case letters, digits and hyphens. From the first file's name where not given.",
    )  # fmt: skip
    licence: str = Field("unknown", max_length=120, pattern=_VISIBLE, description="Under which the text may be used.")
    tags: list[Tag] = Field(default_factory=list, max_length=32, description="In a form: repeated, or with commas.")


class TextRow(BaseModel):
    """A text as a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str


class AddDataRequest(UploadDetails):
    """Texts to learn from."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    texts: list[str | TextRow] = Field(min_length=1, description="Each one a document; a long one becomes several.")

    def plain_texts(self) -> list[str]:
        """Without their rows."""
        return [row if isinstance(row, str) else row.text for row in self.texts]


class AddDataResponse(BaseModel):
    """What became of the data."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "message": "2 added: the data set is at version 1", "batch_id": 1, "was_there": False,
                    "dataset_version": 1, "fingerprint": "6f1d…", "name": "my-code", "accepted": 2, "duplicate": 0,
                    "near_duplicate": 0, "rejected": 0, "rejected_by_reason": {}, "rejected_rows": [], "bytes": 83,
                    "splits": {"train": {"records": 2, "bytes": 83}}, "seconds": 0.4,
                }
            ]
        }
    )  # fmt: skip

    message: str
    batch_id: int
    was_there: bool = Field(description="The same content had come before: nothing was done, and this is what it was.")
    dataset_version: int | None = Field(description="The version of the data set that has all of it.")
    fingerprint: str | None = Field(description="Of that version: equal content has an equal one.")
    name: str
    accepted: int = Field(description="Records that are new in the data set.")
    duplicate: int = Field(description="Records that it had, or that came twice.")
    near_duplicate: int = Field(description="Records that it had nearly so: some 85 % of their five-word sequences.")
    rejected: int = Field(description="Files and rows that could not be used.")
    rejected_by_reason: dict[str, int]
    rejected_rows: list[RejectedRow] = Field(description="The first hundred of them.")
    bytes: int = Field(description="Of the accepted text.")
    splits: dict[str, Amount] = Field(description="Split → what was added to it. A text's content decides its split.")
    seconds: float

    @classmethod
    def of(cls, added: AddedBatch) -> AddDataResponse:
        """As a client sees it."""
        version = added.version
        return cls(
            message=_message(added), batch_id=added.batch.id, was_there=added.was_there, name=added.batch.name,
            dataset_version=version.number if version is not None else None,
            fingerprint=version.fingerprint if version is not None else None,
            **added.report.model_dump(exclude={"version", "error"}),
        )  # fmt: skip


class BatchOut(BaseModel):
    """An upload: by whom and when, and how much of it was kept."""

    id: int
    name: str
    licence: str
    tags: list[str]
    sha256: str = Field(description="Of the files' contents: the same upload again adds nothing.")
    size_bytes: int
    actor: str
    created: datetime
    finished: datetime | None
    accepted: int
    duplicate: int
    near_duplicate: int
    rejected: int

    @classmethod
    def of(cls, batch: DataBatch) -> BatchOut:
        """As a client sees it."""
        report = BatchReport.model_validate(batch.report)
        counts = report.model_dump(include={"accepted", "duplicate", "near_duplicate", "rejected"})
        columns = ("id", "name", "licence", "tags", "sha256", "size_bytes", "actor", "created", "finished")
        return cls(**{column: getattr(batch, column) for column in columns}, **counts)


class DatasetOut(BaseModel):
    """A version of the data set; it never changes."""

    version: int
    parent: int | None = Field(description="The version before, all of which it has.")
    fingerprint: str = Field(description="Merkle root of the records' hashes: equal content has an equal one.")
    created: datetime
    records: int
    bytes: int
    splits: dict[str, Amount] = Field(description="Split → how much is in it.")
    sources: dict[str, Amount] = Field(description="Source → how much came from it.")
    added: BatchOut = Field(description="The upload that made this version.")

    @classmethod
    def of(cls, added: AddedVersion) -> DatasetOut:
        """As a client sees it."""
        counts = counts_in(added.version)
        names = sorted({source for sources in counts.values() for source in sources})
        whole = total(counts)
        return cls(
            version=added.version.number, parent=added.version.number - 1 or None,
            fingerprint=added.version.fingerprint, created=added.version.created,
            records=whole.records, bytes=whole.bytes, splits={split: total(counts, split) for split in counts},
            sources={name: total(_only(counts, name)) for name in names}, added=BatchOut.of(added.batch),
        )  # fmt: skip


class DatasetList(BaseModel):
    """Versions, newest first."""

    datasets: list[DatasetOut]


class ShardOut(BaseModel):
    """A file of the version."""

    name: str
    sha256: str
    split: str
    source: str
    records: int
    bytes: int


class DatasetDetail(DatasetOut):
    """A version with all that is known of it."""

    counts: Counts = Field(description="Split → source → how much.")
    shards: list[ShardOut]
    report: BatchReport = Field(description="Of the upload that made this version.")

    @classmethod
    def of_manifest(cls, added: AddedVersion, manifest: VersionManifest) -> DatasetDetail:
        """As a client sees it."""
        shards = [
            ShardOut(name="/".join(entry.path.split("/")[-2:]), **entry.model_dump(exclude={"path"}))
            for entry in manifest.shards
        ]
        report = BatchReport.model_validate(added.batch.report)
        return cls(**DatasetOut.of(added).model_dump(), counts=manifest.counts, shards=shards, report=report)


def _only(counts: Counts, source: str) -> Counts:
    return {split: {source: sources[source]} for split, sources in counts.items() if source in sources}


def _message(added: AddedBatch) -> str:
    report = added.report
    if added.was_there:
        return f"already there: batch {added.batch.id}, version {report.version}"
    if not report.accepted:
        known = f"{report.duplicate:,} duplicate, {report.near_duplicate:,} near duplicate"
        return f"nothing new in it ({known}): the data set stays at version {report.version}"
    return f"{report.accepted:,} added: the data set is at version {report.version}"
