"""Whether the Hugging Face hub can be asked at all."""

import socket
import urllib.request
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
