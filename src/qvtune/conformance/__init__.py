"""Whether groups, rates and adapters survive data parallel and sharding: `python -m qvtune.conformance`."""
