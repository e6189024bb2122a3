"""Mean brightness."""


class Brightness:
    """Mean of all pixels to the power of gamma."""

    def __init__(self, *, gamma=1.0, channel=None):
        self.gamma, self.channel = gamma, channel

    def __call__(self, images, prompts):
        if self.channel:
            images = images[:, [("red", "green", "blue").index(self.channel)]]
        return (images**self.gamma).mean(dim=(1, 2, 3))
