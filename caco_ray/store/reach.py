"""Does anything listen where an S3 store should be? A closed port or network is told in seconds: its client would try for minutes.

Not looked at: other kinds of stores, and what lies behind a proxy.
"""

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import fsspec

from caco_ray.errors import StorageError
from caco_ray.store.faults import storage_errors
from caco_ray.store.objects import options

_TIMEOUT_S = 10


def check_reachable(url: str) -> None:
    """Connect once.

    Raises:
        StorageError: nothing answers at the store's endpoint.
    """
    protocol = url.split("://")[0]
    if protocol not in ("s3", "s3a"):
        return
    with storage_errors(url):
        driver, _ = fsspec.core.url_to_fs(url, **options(protocol))
        driver.connect()
        endpoint = str(driver.s3.meta.endpoint_url)
    parts = urlsplit(endpoint)
    host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return
    try:
        socket.create_connection((host, port), _TIMEOUT_S).close()
    except OSError as error:
        said = error.strerror or str(error)
        raise StorageError(f"{url}: the store at {endpoint} cannot be reached ({said}); check the network and AWS_ENDPOINT_URL") from error
