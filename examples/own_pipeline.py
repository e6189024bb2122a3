"""A pipeline that is loaded already is trained in place: what it draws afterwards is what it has learned.

The pocket model stands here for any Stable Diffusion, SDXL, Stable Diffusion 3 or FLUX.1 of diffusers.
"""

from ddpo_pocket.loading import FOLDER
from diffusers import StableDiffusionPipeline

import ddpo_core


def darkness(images, prompts):
    return 1 - images.mean((1, 2, 3))


pipe = StableDiffusionPipeline.from_pretrained(FOLDER)
run = ddpo_core.train(
    darkness,
    model=pipe,
    prompts=["cat", "dog"],
    epochs=3,
    samples_per_epoch=32,
    num_steps=12,
    guidance_scale=1.0,
)
for epoch in run:
    print(f"epoch {epoch.number}: darkness {epoch.metrics['reward/darkness/mean']:.3f}")

pipe("cat", num_inference_steps=12, guidance_scale=1.0).images[0].save("dark-cat.png")
pipe.unload_lora_weights()  # the model as it was, and free for another run
pipe("cat", num_inference_steps=12, guidance_scale=1.0).images[0].save("cat.png")
