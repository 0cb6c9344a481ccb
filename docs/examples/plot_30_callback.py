"""
A callback for the training
===========================

The training runs in skorch, so that a callback of skorch is called at each of its steps. Here, one
records how far each stage has moved from its pretrained weights.
"""

# %%
# A callback is a class with methods for events such as ``on_train_begin`` and ``on_batch_end``. The
# estimator copies it; the copies are in ``net_.callbacks_``.
from collections import defaultdict

import torch
from skorch.callbacks import Callback


class Movement(Callback):
    """Record the distance of each stage from its start, relative to its length."""

    def on_train_begin(self, net, **kwargs):
        self.start_ = self.stages(net)
        self.moved_ = defaultdict(list)

    def on_batch_end(self, net, training, **kwargs):
        for stage, weights in self.stages(net).items() if training else ():
            start = self.start_[stage]
            self.moved_[stage].append(float((weights - start).norm() / start.norm()))

    def stages(self, net):
        """Return the parameters of each stage, whose names begin with its number."""
        parameters = defaultdict(list)
        for name, parameter in net.module_.body.named_parameters():
            parameters[int(name.partition(".")[0])].append(parameter.detach().flatten())
        return {stage: torch.cat(weights) for stage, weights in parameters.items()}


# %%
# The last two stages are trained on patches of three photographs.
import numpy as np
from skimage import data

from sktransfer import FineTunedClassifier


def patches(image, side=32):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
X = [patch for image in surfaces.values() for patch in patches(image)[::12]]
y = np.repeat(list(surfaces), len(X) // 3)
model = FineTunedClassifier(
    trainable=2, image_size=64, max_epochs=8, callbacks=[Movement()], random_state=0
).fit(X, y)

# %%
# The new classifier moves four times as far as the last stages of the network. The learning rate
# falls to zero, where nothing moves any more.
from matplotlib import pyplot as plt

(movement,) = (callback for _, callback in model.net_.callbacks_ if isinstance(callback, Movement))
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
names = dict(enumerate(model.trained_layers_))
for stage, values in movement.moved_.items():
    percent = 100 * np.array(values)
    axis.plot(range(1, len(values) + 1), percent, label=names.get(stage, "new classifier"))
axis.set(xlabel="optimizer step", ylabel="distance from the start, %")
axis.legend(title="stage")
plt.show()
