"""Needs a package that nobody has."""

import package_that_nobody_has  # noqa: F401

DDPO_PLUGIN_API = (1, 0)
