"""A bucket of an object store that speaks S3, as a place for a shared store; by s3fs, the extra `s3`.

Credentials, region and endpoint are found as any AWS tool finds them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_PROFILE, AWS_ENDPOINT_URL … What a server answers is never shown but for its code: some repeat what they were sent.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codelutra.errors import disk_is_full, of_the_installation
from codelutra.store.place import Moved, PlaceError

_PART, _AT_ONCE, _MOST_PARTS = 16 << 20, 4, 9_000  # bytes, parts in memory, of at most 10,000
# A server that says nothing is asked _TRIES times by s3fs, and each time by botocore once more: minutes, where their own
# settings make an hour of it. Who asks waits as long; later tries are Reach's.
_TIMES = {"connect_timeout": 10, "read_timeout": 20, "retries": {"mode": "standard", "max_attempts": 1}}
_TRIES = 2
_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "401",
    "InvalidClientTokenId",
    "AuthFailure",
    "RequestTimeTooSkewed",
}
_RIGHTS = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"}
_ADDRESS = {"PermanentRedirect", "AuthorizationHeaderMalformed", "InvalidBucketName", "301", "307", "400", "NotImplemented"}
_PASSING = {  # "" where nothing was answered
    "",
    "InternalError",
    "SlowDown",
    "ServiceUnavailable",
    "RequestTimeout",
    "OperationAborted",
    "ConditionalRequestConflict",
    "NoSuchUpload",
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "Throttling",
    "TooManyRequests",
    "408",
    "409",
    "429",
    "500",
    "502",
    "503",
    "504",
    "unknown",
}
_UNSET = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError", "ConfigParseError"}


class Bucket:
    """Objects below s3://bucket/prefix."""

    def __init__(self, address: str) -> None:
        """Raises UserError where s3fs is missing. Connects at the first question."""
        try:
            import botocore.exceptions as botocore
            from fsspec.callbacks import Callback
            from s3fs import S3FileSystem
        except ModuleNotFoundError as e:
            raise of_the_installation(e) or e from e
        self.address = address
        self._bucket, _, self._prefix = address.removeprefix("s3://").partition("/")
        self._files = S3FileSystem(
            config_kwargs=_TIMES, use_listings_cache=False, skip_instance_cache=True, default_block_size=_PART
        )
        self._files.retries = _TRIES
        self._libraries = (OSError, botocore.BotoCoreError, botocore.ClientError)

        class Counting(Callback):
            def __init__(self, moved: Moved) -> None:
                super().__init__()
                self._moved = moved

            def relative_update(self, inc: int = 1) -> None:
                self._moved(inc)

        self._counting = Counting

    def require(self) -> None:
        with self._asking(bucket=True):
            self._files.call_s3("head_bucket", Bucket=self._bucket)

    def read(self, name: str, most: int) -> bytes | None:
        with self._asking(), contextlib.suppress(FileNotFoundError):
            try:
                return bytes(self._files.cat_file(self._path(name), start=0, end=most + 1))
            except OSError as e:
                if _code(e) in ("InvalidRange", "416"):  # it is empty
                    return b""
                raise
        return None

    def size(self, name: str) -> int | None:
        with self._asking(), contextlib.suppress(FileNotFoundError):
            return int(self._files.call_s3("head_object", Bucket=self._bucket, Key=self._key(name))["ContentLength"])
        return None

    def create(self, name: str, content: bytes) -> bool:
        """By a conditional put (If-None-Match: *)."""
        with self._asking():
            try:
                self._files.pipe_file(self._path(name), content, mode="create")
            except OSError as e:
                if isinstance(e, FileExistsError) or _code(e) in ("PreconditionFailed", "412"):
                    return False
                raise
        return True

    def replace(self, name: str, content: bytes) -> None:
        with self._asking():
            self._files.pipe_file(self._path(name), content)

    def remove(self, name: str) -> None:
        with self._asking():
            self._files.call_s3("delete_object", Bucket=self._bucket, Key=self._key(name))

    def put(self, name: str, file: Path, moved: Moved) -> None:
        with self._asking():
            size = max(_PART, -(-file.stat().st_size // _MOST_PARTS))
            self._files.put_file(
                str(file), self._path(name), callback=self._counting(moved), chunksize=size, max_concurrency=_AT_ONCE
            )

    def get(self, name: str, file: Path, moved: Moved) -> None:
        with self._asking():
            self._files.get_file(
                self._path(name), str(file), callback=self._counting(moved), chunksize=_PART, max_concurrency=_AT_ONCE
            )

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _path(self, name: str) -> str:
        return f"{self._bucket}/{self._key(name)}"

    @contextlib.contextmanager
    def _asking(self, *, bucket: bool = False) -> Iterator[None]:
        """Errors become PlaceErrors that show no text of the server. `bucket`: what is not found is the bucket."""
        try:
            yield
        except self._libraries as e:
            code = _code(e)
            if isinstance(e, FileNotFoundError) and code != "NoSuchBucket" and not bucket:
                raise
            if not code and disk_is_full(e):
                raise  # of the disk here
            said = self._said(e, code)
            raise PlaceError(said or _not_answered(e, code), lasting=bool(said)) from None

    def _said(self, error: Exception, code: str) -> str:
        """What somebody has to put right; "" where the server is to be asked again."""
        kind = type(error).__name__
        if kind in _UNSET:
            return (
                f"there are no credentials for it ({kind}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        if code in _CREDENTIALS:
            return (
                f"the server refuses the credentials ({code}); they come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or from the profile that AWS_PROFILE names"
            )
        if code in _RIGHTS:
            return (
                f"the credentials are not allowed to do this ({code}); reading, writing and deleting below the prefix are "
                "needed, and listing"
            )
        if isinstance(error, FileNotFoundError):
            return f"there is no bucket {self._bucket!r}; make it, or correct the address (AWS_ENDPOINT_URL is the server's)"
        if code in _ADDRESS or kind in ("ParamValidationError", "InvalidRegionError", "NoRegionError"):
            return f"the server does not take the request ({code or kind}); look at the bucket, AWS_REGION, AWS_ENDPOINT_URL"
        return "" if code in _PASSING else f"the server refuses this ({code})"


def _not_answered(error: BaseException, code: str) -> str:
    at = getattr(error, "kwargs", None) or {}
    where = f" at {at['endpoint_url']}" if isinstance(at, dict) and at.get("endpoint_url") else ""
    return f"no answer{where} ({code or type(error).__name__})"


def _code(error: BaseException | None) -> str:
    """The server's code for an error, "" where it gave none that is one."""
    while error is not None:
        response: Any = getattr(error, "response", None)
        if isinstance(response, dict):
            code = str((response.get("Error") or {}).get("Code", ""))
            return code if re.fullmatch(r"[A-Za-z0-9]{1,40}", code) else "unknown"
        error = error.__cause__
    return ""
