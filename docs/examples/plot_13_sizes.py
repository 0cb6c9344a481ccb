"""
Input sizes
===========

A network can be given images of another size than it was trained with. Larger ones show more
detail, and cost more. ``image_size`` also takes a list: the features of all sizes, side by side.
"""

# %%
import numpy as np
from skimage import data


def patches(image, side=64):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


from time import perf_counter

from sklearn.linear_model import LogisticRegression

from sktransfer import PretrainedFeatureExtractor

surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
X = [patch for image in surfaces.values() for patch in patches(image, 32)[::5]]
y = np.repeat(list(surfaces), len(X) // 3)

# %%
# Accuracy and time for each size. The classifiers are trained on two labels of each surface, drawn
# twenty times, and tested on the other patches.
rng = np.random.default_rng(0)
draws = [
    np.concatenate([rng.choice(np.flatnonzero(y == name), 2, replace=False) for name in surfaces])
    for _ in range(20)
]
sizes = (32, 64, 96, 128, 160, 224)
accuracies, milliseconds = [], []
for size in sizes:
    extractor = PretrainedFeatureExtractor(image_size=size).fit(X)
    start = perf_counter()
    features = extractor.transform(X)
    milliseconds.append((perf_counter() - start) / len(X) * 1000)
    scores = []
    for train in draws:
        test = np.setdiff1d(np.arange(len(X)), train)
        classifier = LogisticRegression(max_iter=1000).fit(features[train], y[train])
        scores.append(classifier.score(features[test], y[test]))
    accuracies.append((np.mean(scores), np.std(scores)))
    print(
        f"{size:3} {np.mean(scores):.3f} ± {np.std(scores):.3f}, {milliseconds[-1]:.1f} ms an image"
    )

# %%
# Accuracy levels off, and the time grows with the number of pixels.
from matplotlib import pyplot as plt

means, deviations = np.transpose(accuracies)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.errorbar(sizes, means, deviations, marker="o", capsize=3)
left.set(xlabel="input size in pixels", ylabel="accuracy", xticks=sizes)
right.plot(sizes, milliseconds, "o-", color="C1")
right.set(
    xlabel="input size in pixels", ylabel="milliseconds an image", xticks=sizes, ylim=(0, None)
)
plt.show()

# %%
# Several sizes side by side:
PretrainedFeatureExtractor(image_size=[64, 128]).fit(X[:3]).transform(X[:3]).shape
