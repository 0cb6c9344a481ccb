"""
Fine-tuning the last stages
===========================

With more labels, and data that differ from those of the network's training, it is worth training
stages of the network too. ``trainable=2`` trains the last two, ``trainable="all"`` the whole
network. The training starts from the pretrained weights and runs in skorch.
"""

# %%
# 150 handwritten digits of 8 x 8 pixels for training, 400 others for testing.
from sklearn.datasets import load_digits

digits = load_digits()
X, y = list(digits.images / 16), digits.target
X_train, y_train, X_test, y_test = X[:150], y[:150], X[1000:1400], y[1000:1400]

# %%
# The number of passes over the data, the batch size and the learning rate follow from the number of
# samples, from the network and from how similar the samples are to those of its training.
from time import perf_counter

from matplotlib import pyplot as plt

from sktransfer import FineTunedClassifier

accuracies = {}
for trainable in ("head", 2, "all"):
    start = perf_counter()
    model = FineTunedClassifier(trainable=trainable, image_size=64, random_state=0)
    model.fit(X_train, y_train)
    accuracies[str(trainable)] = model.score(X_test, y_test)
    print(f"{trainable!s:5} {accuracies[str(trainable)]:.3f}, {perf_counter() - start:.0f} s")

# %%
# Training all stages leaves about half of the errors.
wrong = {name: round(400 * (1 - accuracy)) for name, accuracy in accuracies.items()}
figure, axis = plt.subplots(figsize=(6, 2.4), layout="constrained")
bars = axis.barh(list(wrong)[::-1], list(wrong.values())[::-1], color=["C0", "0.7", "0.7"])
axis.bar_label(bars, padding=3)
axis.set(xlabel="wrong of 400 other digits", ylabel="trainable")
axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# ``net_`` is the skorch net of the training. It can be inspected and continued.
from skorch import NeuralNetClassifier

isinstance(model.net_, NeuralNetClassifier)
