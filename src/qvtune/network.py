"""Check whether the Hugging Face hub can be reached."""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit


@cache
def hub_is_reachable() -> bool:
    """Return whether the hub's name resolves, or there is a proxy.

    The hub's client tries a name that does not resolve six times over half a minute. With this check, a machine without
    a network uses its cache, or fails, at once.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


@contextmanager
def cache_only_when_unreachable() -> Iterator[None]:
    """Inside the block, let the datasets library use only its cache if the hub cannot be reached."""
    import datasets
    from huggingface_hub import constants

    if hub_is_reachable():
        yield
        return
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
