"""The command line: one file per command, and ``app.main`` that the console script calls."""
