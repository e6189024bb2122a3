"""The command line: flags, files, progress, reports and exit codes. Every side effect of ddpo is here."""
