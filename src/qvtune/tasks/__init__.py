"""What is learned: a file per kind of task. Records become examples, batches, a loss, metrics and predictions."""
