"""A reward is a function: pictures in, one number for each out. Trained on the pocket model, on a CPU."""

import ddpo_core


def redness(images, prompts):  # [B, 3, H, W] in [0, 1]
    red, green, blue = images.unbind(1)
    return (red - (green + blue) / 2).mean((1, 2))


for epoch in ddpo_core.train(redness, model="pocket", epochs=3):
    mean, stderr = (epoch.metrics[f"reward/redness/{what}"] for what in ("mean", "stderr"))
    print(f"epoch {epoch.number}: redness {mean:.3f} ± {stderr:.3f}")

epoch.pictures[0].save("red.png")
print("adapter in", epoch.save("red-adapter"))
