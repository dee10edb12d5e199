"""What a storage says when it refuses, as one `StorageError` line: what, where, what to do.

fsspec drivers raise whatever their client library raises (botocore, aiohttp, google.auth, ...): there is no common base class, so this is
the one place that catches `Exception`. `FileExistsError` and `FileNotFoundError` are answers, not faults, and pass.

Faults that pass by themselves (a server that restarts, a store that asks to slow down) are waited out first: `persistently`.
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from caco_ray.errors import CacoError, StorageError

Result = TypeVar("Result")

WAITS_S = (0.5, 2.0, 8.0)  # before the second, third and fourth try
_PASSING = {
    errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT,
    errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH,
}  # fmt: skip
_PASSING_CODES = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "OperationAborted"}
# Of botocore, aiohttp and fsspec.
_PASSING_NAMES = {
    "FSTimeoutError", "ConnectTimeoutError", "ReadTimeoutError", "EndpointConnectionError", "ConnectionClosedError", "HTTPClientError",
    "IncompleteRead", "ResponseStreamingError", "ClientPayloadError", "ClientConnectionError", "ServerDisconnectedError",
}  # fmt: skip
_BY_ERRNO = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another folder, or mount it writable",
    errno.EACCES: "no permission; check its owner and mode, or your credentials",
    errno.EPERM: "no permission; check its owner and mode, or your credentials",
    errno.ESTALE: "the network file system lost its server; run the same command again",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
}
# Codes of S3 (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).
_BY_CODE = {
    "RequestTimeTooSkewed": "the store refuses this machine's clock; set it right (NTP) and run the same command again",
    "ExpiredToken": "the credentials have expired; renew them and run the same command again",
    "InvalidAccessKeyId": "the store does not know these credentials; check them",
    "SignatureDoesNotMatch": "the store refuses these credentials; check the secret key",
    "NoSuchBucket": "there is no such bucket; make it first, or check run.dir",
    "SlowDown": "the store asks to slow down; run the same command again",
}
# Exceptions of botocore and google.auth, known by name: neither library need be installed.
_BY_NAME = {
    "NoCredentialsError": "no credentials found; give them in the environment, a profile or the machine's role",
    "PartialCredentialsError": "half of the credentials are missing; give access key and secret key",
    "DefaultCredentialsError": "no credentials found; give them in the environment or the machine's role",
    "EndpointConnectionError": "the store cannot be reached; check the network and the endpoint",
    "ConnectTimeoutError": "the store cannot be reached; check the network and the endpoint",
    "FSTimeoutError": "the store does not answer; run the same command again",
}


@contextmanager
def storage_errors(path: str, *, writing: bool = False) -> Iterator[None]:
    """Turn what the storage raises on `path` into a `StorageError`.

    Raises:
        StorageError: see above; when writing also where the place to write to does not exist.
    """
    try:
        yield
    except (FileExistsError, CacoError):
        raise
    except FileNotFoundError as error:
        if not writing:
            raise
        said = explain(error) if error_code(error) else "the folder or bucket does not exist"
        raise StorageError(f"{path}: {said}") from error
    except Exception as error:  # see the module's docstring
        raise StorageError(f"{path}: {explain(error)}") from error


def persistently(action: Callable[[], Result]) -> Result:
    """Do it, and again after a while where a fault may pass by itself. `action` must bear being carried out twice.

    Raises:
        Exception: what the last try raised.
    """
    for wait_s in WAITS_S:
        try:
            return action()
        except Exception as error:  # see the module's docstring
            if not passes(error):
                raise
        time.sleep(wait_s)
    return action()


def passes(error: Exception) -> bool:
    """Whether the same call may succeed a moment later."""
    if isinstance(error, FileNotFoundError | FileExistsError | CacoError):
        return False
    if code := error_code(error):  # a driver gives most answers of a store the errno EIO
        return code in _PASSING_CODES or _http_status(error) in (429, 500, 502, 503, 504)
    named = {kind.__name__ for kind in type(error).__mro__} & _PASSING_NAMES
    return bool(named) or isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno in _PASSING)


def explain(error: Exception) -> str:
    """The line for one exception."""
    number = error.errno if isinstance(error, OSError) else None
    said = _BY_CODE.get(error_code(error)) or _BY_NAME.get(type(error).__name__) or _BY_ERRNO.get(number or 0)
    if said is None and isinstance(error, PermissionError):
        said = f"no permission ({error}); check your credentials and what they allow"
    return said or f"the storage failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})"


def error_code(error: BaseException) -> str:
    """The store's own code of a fault, or an empty string."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def _http_status(error: BaseException) -> object:
    return _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")


def _response(error: BaseException) -> dict[str, Any]:
    for place in (error, error.__cause__):
        response = getattr(place, "response", None)
        if isinstance(response, dict):
            return response
    return {}
