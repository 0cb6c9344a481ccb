"""
A rare class
============

Where one class is rare, a classifier that is right most of the time can miss it. Weights of classes
and scikit-learn's tuned thresholds work on models with pretrained networks as on any others.
"""

# %%
# 250 small patches of grass and 25 of gravel, for training and for testing each.
import numpy as np
from skimage import data


def patches(image, side=16):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


from sklearn.model_selection import train_test_split

from sktransfer import PretrainedFeatureExtractor

X = patches(data.grass())[::2][:500] + patches(data.gravel())[::20][:50]
y = np.repeat(["grass", "gravel"], [500, 50])
features = PretrainedFeatureExtractor(image_size=48).fit_transform(X)
X_train, X_test, y_train, y_test = train_test_split(
    features, y, test_size=0.5, random_state=0, stratify=y
)

# %%
# The share of gravel that is found, and of grass that is taken for gravel:
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import TunedThresholdClassifierCV

plain = LogisticRegression(C=0.01, max_iter=1000)
models = {
    "as it is": plain,
    'class_weight="balanced"': LogisticRegression(C=0.01, max_iter=1000, class_weight="balanced"),
    "tuned threshold": TunedThresholdClassifierCV(plain, scoring="balanced_accuracy"),
}
found, wrong = {}, {}
for name, model in models.items():
    predicted = model.fit(X_train, y_train).predict(X_test)
    found[name] = np.mean(predicted[y_test == "gravel"] == "gravel")
    wrong[name] = np.mean(predicted[y_test == "grass"] == "gravel")
    accuracy = np.mean(predicted == y_test)
    print(f"{name:24} found {found[name]:.2f}, false {wrong[name]:.3f}, accuracy {accuracy:.3f}")

# %%
from matplotlib import pyplot as plt

figure, axis = plt.subplots(figsize=(6.5, 2.6), layout="constrained")
rows = np.arange(len(models))
for shift, values, label in ((-0.2, found, "gravel found"), (0.2, wrong, "grass taken for gravel")):
    bars = axis.barh(rows + shift, list(values.values()), height=0.38, label=label)
    axis.bar_label(bars, fmt="%.2f", padding=3)
axis.set_yticks(rows, list(models))
axis.invert_yaxis()
axis.set(xlim=(0, 1.1), xlabel="share of patches")
axis.legend(loc="upper right")
axis.spines[["top", "right"]].set_visible(False)
plt.show()
