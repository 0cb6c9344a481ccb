"""
Several layers and sizes together
=================================

With few labels, it is not known which layer of a network is best, and how large the images should
be. ``TransferClassifier`` does not choose: it takes a weighted mean of the predictions of several
models, with weights from cross-validation.
"""

# %%
# Handwritten digits, five labels for each, and 200 others.
import numpy as np
from sklearn.datasets import load_digits

digits = load_digits()
train = np.concatenate([np.flatnonzero(digits.target == digit)[:5] for digit in range(10)])
test = np.setdiff1d(np.arange(400), train)[-200:]
X_train, X_test = digits.images[train] / 16, digits.images[test] / 16
y_train, y_test = digits.target[train], digits.target[test]

# %%
# Three lines, and no parameters:
from sktransfer import TransferClassifier

model = TransferClassifier(random_state=0).fit(X_train, y_train)
accuracies = {"TransferClassifier": model.score(X_test, y_test)}

# %%
# A linear classifier on the features of the penultimate layer at one size, for comparison:
one = TransferClassifier(strategy="features", random_state=0).fit(X_train, y_train)
accuracies["one layer, one size"] = one.score(X_test, y_test)
print(accuracies)

# %%
# The blend is right more often.
from matplotlib import pyplot as plt

figure, axis = plt.subplots(figsize=(6, 1.8), layout="constrained")
bars = axis.barh(list(accuracies)[::-1], list(accuracies.values())[::-1], color=["0.7", "C0"])
axis.bar_label(bars, fmt="%.2f", padding=3)
axis.set(xlim=(0, 1.1), xlabel="accuracy on 200 other digits, with 50 labels")
axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# What the model consists of:
from sktransfer import BlendDisplay

BlendDisplay.from_estimator(model)
plt.show()
