"""
Few labels, many unlabelled samples
===================================

If only a few samples have labels, the others can help. ``fit(X, y, X_unlabelled=...)`` predicts
their labels and fits the blend again, with these as targets. Held-out labels decide how much weight
this has.
"""

# %%
# One digit of each class has a label, and 300 have none.
import numpy as np
from sklearn.datasets import load_digits

from sktransfer import TransferClassifier

digits = load_digits()
X, y = list(digits.images / 16), digits.target
first = np.array([np.flatnonzero(y[:300] == label)[0] for label in range(10)])
others = np.setdiff1d(np.arange(300), first)
X_train, X_unlabelled = [X[i] for i in first], [X[i] for i in others]
X_test, y_test = X[1000:1300], y[1000:1300]

# %%
wrong = {}
given = {"10 labels": {}, "10 labels and\n290 images without": {"X_unlabelled": X_unlabelled}}
for name, more in given.items():
    model = TransferClassifier(image_size=64, random_state=0).fit(X_train, y[first], **more)
    wrong[name] = int(np.sum(model.predict(X_test) != y_test))
print(wrong)

# %%
from matplotlib import pyplot as plt

figure, axis = plt.subplots(figsize=(6, 1.8), layout="constrained")
bars = axis.barh(list(wrong), list(wrong.values()), color=["0.7", "C0"])
axis.bar_label(bars, padding=3)
axis.invert_yaxis()
axis.set(xlabel="wrong of 300 other digits")
axis.margins(x=0.1)
axis.spines[["top", "right"]].set_visible(False)
plt.show()
