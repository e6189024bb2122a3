"""Rewards without training: what they say of pictures that are there, from files, PIL, numpy or torch."""

from PIL import Image

import ddpo_core


def redness(images, prompts):
    red, green, blue = images.unbind(1)
    return (red - (green + blue) / 2).mean((1, 2))


pictures = {colour: Image.new("RGB", (64, 64), colour) for colour in ("red", "orange", "blue")}
scores = ddpo_core.score({"redness": redness, "jpeg": 1}, list(pictures.values()), prompts="a square")

for row, colour in enumerate(pictures):
    said = ", ".join(f"{label} {score.values[row]:.2f}" for label, score in scores.items())
    print(f"{colour}: {said}")
