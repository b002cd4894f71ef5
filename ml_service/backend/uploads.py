"""What a client sends to be learned from: JSON texts or the files of a form, as they are remembered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from lib.file_names import slug
from ml_service.backend.data_schemas import AddDataRequest, UploadDetails
from ml_service.backend.errors import bad_request_of
from ml_service.backend.forms import IncomingForm, receive_form
from ml_service.common.errors import BadRequest
from ml_service.data.batches import Upload
from ml_service.data.staging import ReceivedFile, Staging, upload_sha256, write_texts

Details = TypeVar("Details", bound=UploadDetails)
_FILE_FIELDS = ("files", "file")
_TEXT_FIELDS = ("name", "licence", "tags")
_COPIES = 2
"""The upload itself and, for a while beside it, the shards that are made of it."""


@dataclass(frozen=True)
class ReceivedUpload:
    """All of an upload, in a folder that we hold."""

    folder: Staging
    files: list[ReceivedFile]
    details: UploadDetails

    def described(self, actor: str, key: str | None) -> Upload:
        """As it is remembered."""
        given = self.details
        name = given.name or slug(Path(self.files[0].name).stem, fallback="texts")
        return Upload(
            name, given.licence, given.tags, upload_sha256(self.files), sum(file.size_bytes for file in self.files),
            self.folder.token, actor, key,
        )  # fmt: skip


class IncomingUpload:
    """An upload whose whole body has come; what is left to do with it needs no client any more."""

    def __init__(self, form: IncomingForm) -> None:
        self._form = form

    def finish(self) -> ReceivedUpload:
        """Write the rest and look at the fields; blocks. Raises BadRequest, InsufficientStorage, TooLarge."""
        form = self._form.finish()
        if form.json_body is not None:
            wish = _checked(AddDataRequest.model_validate_json, form.json_body)
            upload = ReceivedUpload(form.folder, [write_texts(form.folder, wish.plain_texts())], wish)
        else:
            if not form.files:
                raise BadRequest("there is no file in it: send one or more as `files`", [("files", "none came")])
            upload = ReceivedUpload(form.folder, form.files, _details(form.texts))
        upload.folder.remember(upload.files)
        return upload

    def remove(self) -> None:
        """Leave nothing of it; blocks."""
        self._form.remove()


async def receive_upload(request: Request, store: Path) -> IncomingUpload:
    """Bring the body to disk as it comes. Whoever gets the upload removes it; raises as `receive_form` does."""
    return IncomingUpload(await receive_form(request, store, _FILE_FIELDS, _TEXT_FIELDS, copies=_COPIES))


def _details(fields: dict[str, list[str]]) -> UploadDetails:
    """The fields of a form; tags are repeated, or one field with commas."""
    single = {name: values[-1] for name, values in fields.items() if name != "tags"}
    tags = [tag.strip() for value in fields.get("tags", []) for tag in value.split(",")]
    return _checked(UploadDetails.model_validate, single | {"tags": [tag for tag in tags if tag]})


def _checked(validate: Callable[[Any], Details], given: object) -> Details:
    try:
        return validate(given)
    except ValidationError as error:
        raise bad_request_of(error) from error
