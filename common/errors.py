"""The one error tree. Each class is one kind of answer; the HTTP shape is made in `common.api` and nowhere else (DESIGN §5)."""

from __future__ import annotations


class MazeVaultError(Exception):
    """A refusal with a sentence for people, a code for programs and an HTTP status. `retry_after` is in seconds."""

    default_code = "INTERNAL_ERROR"
    default_status = 500
    in_doubt = False
    """Whether something was sent to the outside and nobody knows if it happened."""

    def __init__(
        self,
        sentence: str,
        *,
        code: str | None = None,
        status: int | None = None,
        details: str | None = None,
        retry_after: float | None = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code or self.default_code
        self.status = status or self.default_status
        self.details = details
        self.retry_after = retry_after
        self.extra = extra or {}
        self.headers: dict[str, str] = {}


class ValidationFailed(MazeVaultError):
    """A field has a wrong value; the sentence begins with its name."""

    default_code, default_status = "VALIDATION_ERROR", 400


class MalformedBody(MazeVaultError):
    """The body is not what the path takes at all."""

    default_code, default_status = "INVALID_FORMAT", 400


class AuthenticationRequired(MazeVaultError):
    default_code, default_status = "AUTH_REQUIRED", 401


class AuthenticationInvalid(MazeVaultError):
    default_code, default_status = "AUTH_INVALID", 401


class AuthenticationExpired(MazeVaultError):
    default_code, default_status = "AUTH_EXPIRED", 401


class PermissionRefused(MazeVaultError):
    default_code, default_status = "PERMISSION_DENIED", 403


class NotFound(MazeVaultError):
    default_code, default_status = "RESOURCE_NOT_FOUND", 404


class MethodNotAllowed(MazeVaultError):
    default_code, default_status = "METHOD_NOT_ALLOWED", 405


class Conflict(MazeVaultError):
    default_code, default_status = "RESOURCE_CONFLICT", 409


class TooLarge(MazeVaultError):
    default_code, default_status = "PAYLOAD_TOO_LARGE", 413


class TooManyRequests(MazeVaultError):
    default_code, default_status = "RATE_LIMITED", 429


class Unavailable(MazeVaultError):
    default_code, default_status = "UNAVAILABLE", 503
