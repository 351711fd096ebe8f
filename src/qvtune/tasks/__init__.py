"""Tasks, with a file per kind. They turn records into examples, batches, a loss, metrics and predictions."""
