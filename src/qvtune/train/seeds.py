"""One root seed, and a stream of its own for everything random in a run."""

import hashlib

STREAMS = ("init", "order", "dropout", "batches", "probe", "suggest")


def stream_seed(seed: int, stream: str) -> int:
    """Return the seed of a named stream: 32 bits that depend on the root seed and the name alone."""
    assert stream in STREAMS, stream
    return int.from_bytes(hashlib.sha256(f"{seed} {stream}".encode()).digest()[:4], "big")
