"""The verbs of `ddpo rewards` besides `list` and `show`, one module each."""
