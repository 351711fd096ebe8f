"""Text in: GLUE's files, tables, folders, the hub and packaged sets become named columns."""
