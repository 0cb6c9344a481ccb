"""
Few labels, many unlabelled samples
===================================

If only a few samples have labels, the others can help. ``fit(X, y, X_unlabelled=...)`` predicts
their labels and fits the blend again, with these as targets. Held-out labels decide how much weight
this has.
"""

# %%
# Three digits of each class have a label, and 300 have none.
import numpy as np
from sklearn.datasets import load_digits

from sktransfer import TransferClassifier

digits = load_digits()
X, y = list(digits.images / 16), digits.target
first = np.concatenate([np.flatnonzero(y[:300] == label)[:3] for label in range(10)])
others = np.setdiff1d(np.arange(300), first)
X_train, X_unlabelled = [X[i] for i in first], [X[i] for i in others]
X_test, y_test = X[1000:1300], y[1000:1300]

# %%
accuracies = {}
for name, given in {"labels only": {}, "and unlabelled": {"X_unlabelled": X_unlabelled}}.items():
    model = TransferClassifier(image_size=64, random_state=0).fit(X_train, y[first], **given)
    accuracies[name] = model.score(X_test, y_test)
    print(f"{name:15} {accuracies[name]:.3f}")

# %%
from matplotlib import pyplot as plt

figure, axis = plt.subplots(figsize=(4, 3), layout="constrained")
axis.bar(accuracies.keys(), accuracies.values())
axis.set(ylabel="accuracy on 300 other digits", ylim=(0.5, 1))
plt.show()
