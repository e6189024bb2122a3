"""Models: diffusers pipelines at the border, one convention (ε) inside. One family per file."""
