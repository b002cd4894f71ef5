"""What became of a batch, as it is remembered: how much was kept, what was left out and why."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ml_service.common import errors
from ml_service.data.version_manifest import Amount

_TOLD = (
    errors.BadRequest, errors.BundleRefused, errors.Conflict, errors.InsufficientStorage, errors.ModelFailure,
    errors.TooLarge, errors.Unavailable,
)  # fmt: skip
_KINDS = {kind.__name__: kind for kind in _TOLD}


class RejectedRow(BaseModel):
    """A file, or a row of one, that was left out."""

    model_config = ConfigDict(frozen=True)
    file: str
    row: int | None = Field(None, description="From 1 on; none where it is the whole file.")
    reason: str


class StoredError(BaseModel):
    """Why a batch was rejected; the same request is answered the same."""

    model_config = ConfigDict(frozen=True)
    kind: str
    message: str
    fields: list[tuple[str, str]] = Field(default_factory=list)

    @classmethod
    def of(cls, error: errors.ServiceError) -> StoredError:
        """As it is stored."""
        fields = error.fields if isinstance(error, errors.BadRequest) else []
        return cls(kind=type(error).__name__, message=str(error), fields=fields)

    def as_error(self) -> errors.ServiceError:
        """To be raised again; of a kind that nobody foresaw it is Unavailable."""
        if self.kind == errors.BadRequest.__name__:
            return errors.BadRequest(self.message, self.fields)
        return _KINDS.get(self.kind, errors.Unavailable)(self.message)


class BatchReport(BaseModel):
    """What became of a batch."""

    model_config = ConfigDict(frozen=True)
    accepted: int = 0
    duplicate: int = 0
    near_duplicate: int = 0
    rejected: int = 0
    rejected_by_reason: dict[str, int] = Field(default_factory=dict)
    rejected_rows: list[RejectedRow] = Field(default_factory=list, description="The first hundred.")
    bytes: int = Field(0, description="Of the accepted text.")
    splits: dict[str, Amount] = Field(default_factory=dict, description="Split → what was added to it.")
    version: int | None = Field(None, description="The data set's version that has all of it.")
    seconds: float = 0.0
    error: StoredError | None = None


INTERRUPTED = BatchReport(
    error=StoredError(kind="Unavailable", message="the intake was interrupted, nothing of it was kept: send it again")
)
