"""Text in: GLUE, files, the hub and packaged sets become examples and a task."""
