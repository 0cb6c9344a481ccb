"""
Similar images
==============

Images with similar features look alike. ``NearestNeighbors`` of scikit-learn on the features is a
search for images by an image.
"""

# %%
# Tiles of photographs that ship with scikit-learn and scikit-image are the collection.
import numpy as np
from skimage import data
from sklearn.datasets import load_sample_images
from sklearn.neighbors import NearestNeighbors

from sktransfer import PretrainedFeatureExtractor


def tiles(image, side=80):
    rows = range(0, image.shape[0] - side, side)
    columns = range(0, image.shape[1] - side, side)
    return [image[r : r + side, c : c + side] for r in rows for c in columns]


photos = [*load_sample_images().images, data.astronaut(), data.chelsea(), data.coffee()]
photos += [data.rocket(), data.immunohistochemistry()]
X = [tile for photo in photos for tile in tiles(photo)]
source = np.repeat(np.arange(len(photos)), [len(tiles(photo)) for photo in photos])

# %%
# The cosine of the angle between features does not depend on their length.
features = PretrainedFeatureExtractor(image_size=96).fit_transform(X)
search = NearestNeighbors(n_neighbors=6, metric="cosine").fit(features)
_, neighbors = search.kneighbors(features)

same = source[neighbors[:, 1:]] == source[:, None]
print(f"{len(X)} tiles; of the five nearest, {same.mean():.0%} are of the same photograph")

# %%
# Four tiles, and the five nearest to each:
from matplotlib import pyplot as plt

figure, axes = plt.subplots(4, 6, figsize=(7, 5), layout="constrained")
for row, i in zip(axes, (17, 51, 112, 200), strict=True):
    for axis, j in zip(row, neighbors[i], strict=True):
        axis.imshow(X[j])
        axis.set(xticks=[], yticks=[])
axes[0, 0].set_title("query")
axes[0, 1].set_title("nearest")
plt.show()
