"""Calls sys.exit when it is imported, as scripts without a main guard do."""

import sys

print("this would spoil --json on stdout")
sys.exit(7)
