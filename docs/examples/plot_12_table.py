"""
An image column in a table
==========================

Images, texts and numbers of the same samples are combined with scikit-learn's
``ColumnTransformer``.
"""

# %%
# A table of 120 pieces of material: a small photograph of 10 x 10 pixels and a weight. The weights
# overlap.
import numpy as np
from skimage import data


def patches(image, side=10):
    rows = range(0, image.shape[0] - side + 1, side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


import pandas as pd

rng = np.random.default_rng(0)
surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
means = {"brick": 2.0, "grass": 0.3, "gravel": 1.2}
rows = [
    {"photo": photo, "weight": rng.normal(means[name], 0.4), "material": name}
    for name, image in surfaces.items()
    for photo in patches(image)[::25][:40]
]
table = pd.DataFrame(rows).sample(frac=1, random_state=0)
table[["weight", "material"]].groupby("material").describe().round(2)

# %%
# The column of images is selected by its name as a string, so that the extractor receives one
# column and not a table. Ten components of its features have a weight like that of one number.
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor

columns = {
    "photo": (
        make_pipeline(PretrainedFeatureExtractor(image_size=64), PCA(10, whiten=True)),
        "photo",
    ),
    "weight": (StandardScaler(), ["weight"]),
}
accuracies = {}
for names in (["weight"], ["photo"], ["photo", "weight"]):
    transformer = make_column_transformer(*(columns[name] for name in names))
    model = make_pipeline(transformer, LogisticRegression(max_iter=1000))
    scores = cross_val_score(model, table, table["material"], cv=5)
    accuracies[" and ".join(names)] = scores.mean()
    print(f"{' and '.join(names):16} {scores.mean():.3f}")

# %%
# Both columns together are right more often than each of them.
from matplotlib import pyplot as plt

figure, axis = plt.subplots(figsize=(6, 2), layout="constrained")
bars = axis.barh(list(accuracies), list(accuracies.values()), color=["0.7", "0.7", "C0"])
axis.bar_label(bars, fmt="%.2f", padding=3)
axis.invert_yaxis()
axis.set(xlabel="accuracy in cross-validation", xlim=(0, 1.1))
axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# The pipeline as a diagram:
model
