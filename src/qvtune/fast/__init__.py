"""The parts that make training fast, each alone or all together through `make_fast`."""
