"""
Samples unlike all others
=========================

Features of a pretrained network tell what an image looks like. The detectors of scikit-learn on
them find images of a kind that was not there before, without a label.
"""

# %%
# Two detectors are fitted to patches of grass alone.
import numpy as np
from skimage import data
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor


def patches(image, side=64):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


grass = patches(data.grass())
models = {
    "IsolationForest": IsolationForest(random_state=0),
    "LocalOutlierFactor": LocalOutlierFactor(novelty=True),
}
for name, detector in models.items():
    models[name] = make_pipeline(PretrainedFeatureExtractor(image_size=128), detector)
    models[name].fit(grass[:40])

# %%
# Other patches of grass, and some of two other photographs. Distances to neighbors separate them
# better than random splits of single features.
from sklearn.metrics import roc_auc_score

X = grass[40:52] + patches(data.gravel())[::11] + patches(data.brick())[::11]
is_new = np.arange(len(X)) >= 12
for name, model in models.items():
    novelty = -model.score_samples(X)
    print(f"{name:18} area under the ROC curve {roc_auc_score(is_new, novelty):.3f}")

# %%
# From the most usual to the least usual, by LocalOutlierFactor. What is not grass has a red frame.
from matplotlib import pyplot as plt

order = np.argsort(novelty)
figure, axes = plt.subplots(2, len(X) // 2, figsize=(9, 1.9), layout="constrained")
for axis, i in zip(axes.flat, order, strict=True):
    axis.imshow(X[i], cmap="gray")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(color="red" if is_new[i] else "none", linewidth=4)
axes[0, 0].set_title("most usual", fontsize="medium", loc="left")
axes[1, -1].set_xlabel("least usual", fontsize="medium", loc="right")
plt.show()
