"""A reward that judges the pictures of one prompt together: how far each is from their mean."""

import ddpo_core


@ddpo_core.reward(scope="group", group_size=8, higher_is="pictures that differ more")
def variety(images, prompts):  # the pictures of one prompt, eight in a row
    return (images - images.mean(0)).square().mean((1, 2, 3))


for epoch in ddpo_core.train(variety, model="pocket", prompts="animals", epochs=3):
    print(f"epoch {epoch.number}: variety {epoch.metrics['reward/variety/mean']:.4f}")
