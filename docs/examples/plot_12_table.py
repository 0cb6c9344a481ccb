"""
An image column in a table
==========================

Images, texts and numbers of the same samples are combined with scikit-learn's
``ColumnTransformer``.
"""

# %%
# A table of 120 pieces of material: a small photograph of 16 x 16 pixels and a weight. The weights
# overlap.
import numpy as np
from skimage import data


def patches(image, side=16):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


import pandas as pd

rng = np.random.default_rng(0)
surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
means = {"brick": 2.0, "grass": 0.3, "gravel": 1.2}
rows = [
    {"photo": photo, "weight": rng.normal(means[name], 0.5), "material": name}
    for name, image in surfaces.items()
    for photo in patches(image)[::25][:40]
]
table = pd.DataFrame(rows).sample(frac=1, random_state=0)
table[["weight", "material"]].groupby("material").describe().round(2)

# %%
# The column of images is selected by its name as a string, so that the extractor receives one
# column and not a table.
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktransfer import PretrainedFeatureExtractor

columns = {
    "photo": (PretrainedFeatureExtractor(image_size=64), "photo"),
    "weight": (StandardScaler(), ["weight"]),
}
for names in (["weight"], ["photo"], ["photo", "weight"]):
    transformer = make_column_transformer(*(columns[name] for name in names))
    model = make_pipeline(transformer, LogisticRegression(max_iter=1000))
    scores = cross_val_score(model, table, table["material"], cv=3)
    print(f"{' and '.join(names):16} {scores.mean():.3f}")

# %%
# The pipeline as a diagram:
model
