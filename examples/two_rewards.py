"""A function and an installed reward, half and half: each is standardised by itself, then weighted."""

import ddpo_core


def brightness(images, prompts):
    return images.mean((1, 2, 3)).tolist()  # a list, numpy or torch


run = ddpo_core.train(
    {
        "bright": (brightness, 0.5, {"on_error": "drop"}),  # function, weight, what a failure does
        "small": ("jpeg,quality=80", 0.5),
    },
    watch={"contrast": lambda images, prompts: images.std((1, 2, 3))},  # scored, not trained on
    model="pocket",
    prompts=["cat", "dog", "fox"],
    epochs=3,
)
for epoch in run:
    print(f"epoch {epoch.number}")
    for label in ("bright", "small", "contrast"):
        print(f"  {label}: mean {epoch.metrics[f'reward/{label}/mean']:.3f}")
    print(f"  share of bright in what is learned: {epoch.metrics['reward/bright/share']:.2f}")
