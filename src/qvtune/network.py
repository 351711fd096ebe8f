"""Whether the Hugging Face hub can be asked at all."""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit


@cache
def hub_is_reachable() -> bool:
    """Return whether the hub's name resolves, or a proxy stands in between.

    The hub's client tries a name that does not resolve six times over half a minute; asking first lets a machine
    without a network use its cache, or fail, at once.
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
    """Let the datasets library use its cache alone inside the block where the hub cannot be asked."""
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
