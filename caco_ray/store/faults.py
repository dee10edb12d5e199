"""What a storage says when it refuses, as one `StorageError` line: what, where, what to do.

fsspec drivers raise whatever their client library raises (botocore, aiohttp, google.auth, ...): there is no common base class, so this is
the one place that catches `Exception`. `FileExistsError` and `FileNotFoundError` are answers, not faults, and pass.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from caco_ray.errors import CacoError, StorageError

_BY_ERRNO = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another run.dir, or mount it writable",
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


def explain(error: Exception) -> str:
    """The line for one exception."""
    number = error.errno if isinstance(error, OSError) else None
    said = _BY_CODE.get(error_code(error)) or _BY_NAME.get(type(error).__name__) or _BY_ERRNO.get(number or 0)
    if said is None and isinstance(error, PermissionError):
        said = f"no permission ({error}); check your credentials and what they allow"
    return said or f"the storage failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})"


def error_code(error: BaseException) -> str:
    """The store's own code of a fault, or an empty string."""
    for place in (error, error.__cause__):
        response = getattr(place, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""
