"""The command line: a thin verb per file, which parses, calls and prints."""
