"""
Which sample to label next
==========================

Active learning asks for the labels that help most.
`scikit-activeml <https://scikit-activeml.github.io>`_ chooses samples by what a classifier knows
about them. With features that are computed once, each choice takes milliseconds.
"""

# %%
# Tiles of twelve photographs that ship with scikit-learn and scikit-image. The network computes the
# features of all tiles once, and their first components are kept.
import numpy as np
from skimage import data
from sklearn.datasets import load_sample_images
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor


def tiles(image, side=48, n=24):
    image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    rows = range(0, image.shape[0] - side, side)
    columns = range(0, image.shape[1] - side, side)
    cut = [image[r : r + side, c : c + side] for r in rows for c in columns]
    return [cut[i] for i in np.linspace(0, len(cut) - 1, n).astype(int)]


names = "astronaut brick chelsea coffee grass gravel hubble_deep_field moon rocket coins".split()
photos = [getattr(data, name)() for name in names] + load_sample_images().images
X = [tile for photo in photos for tile in tiles(photo)]
y = np.repeat(np.arange(len(photos)), 24)
model = make_pipeline(PretrainedFeatureExtractor(image_size=64), PCA(50, random_state=0))
features = model.fit_transform(X)

# %%
# Half of the tiles may be labelled, beginning with five. Then, one label at a time is given to the
# tile of which the classifier is least certain, or to any.
import warnings

from skactiveml.classifier import SklearnClassifier
from skactiveml.pool import RandomSampling, UncertaintySampling
from sklearn.linear_model import LogisticRegression

warnings.filterwarnings("ignore", "The number of unique classes")  # of few labels
strategies = {
    "least certain": lambda seed: UncertaintySampling("margin_sampling", random_state=seed),
    "any": lambda seed: RandomSampling(random_state=seed),
}
n_labels = range(5, 51)
curves = {name: [] for name in strategies}
for seed in range(2):
    order = np.random.default_rng(seed).permutation(len(X))
    pool, test = order[: len(X) // 2], order[len(X) // 2 :]
    for name, make in strategies.items():
        strategy, known = make(seed), np.full(len(pool), np.nan)
        known[: n_labels[0]] = y[pool[: n_labels[0]]]
        classifier = SklearnClassifier(
            LogisticRegression(max_iter=2000), classes=np.arange(len(photos))
        )
        accuracies = []
        for _ in n_labels:
            classifier.fit(features[pool], known)
            accuracies.append(classifier.score(features[test], y[test]))
            arguments = {} if name == "any" else {"clf": classifier, "fit_clf": False}
            (chosen,) = strategy.query(features[pool], known, **arguments)
            known[chosen] = y[pool[chosen]]
        curves[name].append(accuracies)

# %%
# The mean over two draws: fewer labels give the same accuracy.
from matplotlib import pyplot as plt

means = {name: np.mean(accuracies, axis=0) for name, accuracies in curves.items()}
enough = {name: n_labels[int(np.argmax(mean > 0.7))] for name, mean in means.items()}
print("labels for an accuracy of 0.7:", enough)

figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for color, (name, mean) in zip(("C0", "0.6"), means.items(), strict=True):
    axis.plot(n_labels, mean, color=color, label=name)
    axis.vlines(enough[name], 0, 0.7, color=color, linestyle="--")
    axis.text(enough[name], 0.02, f" {enough[name]}", color=color, va="bottom")
axis.axhline(0.7, color="0.8", linestyle="--", zorder=0)
axis.set(xlabel="labels", ylabel="accuracy on other tiles", ylim=(0, 0.9))
axis.legend(title="next label for", loc="upper left")
plt.show()
