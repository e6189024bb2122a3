"""Written for a contract that does not exist yet."""

DDPO_PLUGIN_API = (2, 0)
