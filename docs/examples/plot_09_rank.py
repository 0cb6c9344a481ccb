"""
Which network
=============

``rank_backbones`` compares networks by a score of their features. No network is trained.
"""

# %%
# The candidates are the default network with its published weights at two input sizes, and with
# random weights.
import numpy as np
from skimage import data


def patches(image, side=64):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


import warnings

from matplotlib import pyplot as plt

from sktransfer import BackboneRankingDisplay, load_backbone, rank_backbones

surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
X = [patch for image in surfaces.values() for patch in patches(image, 16)[::32]]
y = np.repeat(list(surfaces), len(X) // 3)

lite = load_backbone("efficientnet_lite0")
with warnings.catch_warnings(action="ignore"):  # that these weights are random
    random = load_backbone("efficientnet_lite0", weights=None, image_size=128)
candidates = {
    "published, 64 pixels": lite.with_image_size(64),
    "published, 128 pixels": lite.with_image_size(128),
    "random, 128 pixels": random,
}
ranking = rank_backbones(X, y, candidates, random_state=0)
print(ranking)

# %%
BackboneRankingDisplay.from_ranking(ranking)
plt.show()
