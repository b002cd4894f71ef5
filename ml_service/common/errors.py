"""What can go wrong, in the words of the domain; no HTTP number stands here."""

from __future__ import annotations


class ServiceError(Exception):
    """An error whose message is meant for the one who asked: no path, no stack, no SQL."""


class BadRequest(ServiceError):
    """The request is wrong; `fields` names where."""

    def __init__(self, message: str, fields: list[tuple[str, str]] | None = None) -> None:
        super().__init__(message)
        self.fields = fields or []


class Unauthenticated(ServiceError):
    """No key, or one that is not known."""


class Forbidden(ServiceError):
    """A known key without the scope."""


class ModelFailure(ServiceError):
    """The request was right, and the model could not process the data."""


class NotFound(ServiceError):
    """There is no such thing."""


class Conflict(ServiceError):
    """The state does not allow it."""


class TooLarge(ServiceError):
    """A body, file or count over its limit."""


class UnsupportedMediaType(ServiceError):
    """A content type that the route does not take."""


class Overloaded(ServiceError):
    """The waiting queue is full; try again in `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateSpent(Overloaded):
    """Whoever asks does so too often."""


class Unavailable(ServiceError):
    """Starting, draining, or no model deployed yet; try again in `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InsufficientStorage(ServiceError):
    """The disk has too little room."""


CANNOT_WRITE_NOW = (Unavailable, InsufficientStorage)
"""What is raised by a database that is away or whose disk is full: both pass, so who can wait does."""


class BundleRefused(ServiceError):
    """A bundle that cannot be trusted: incomplete, changed, foreign, or not able to prove itself."""


class DoesNotFit(BundleRefused):
    """A bundle for which there is too little memory now."""
