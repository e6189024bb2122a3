"""What the parts that need torch ask for."""

INSTALL_TRAIN = 'pip install "ddpo[train]"'
