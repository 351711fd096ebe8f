"""WHERE: the query, key, value and output projections of a model."""
