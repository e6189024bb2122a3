"""Estimators: which formula, on which minibatches. One family per file."""
