"""
The layer matters
=================

The last layers of a network are specialised in what it was trained on. For data of another kind,
such as handwritten digits for a network trained on photographs, an earlier layer gives better
features. ``layer="auto"`` finds it by cross-validation.
"""

# %%
from sklearn.datasets import load_digits

digits = load_digits()
X, y = list(digits.images / 16), digits.target
X_train, y_train, X_test, y_test = X[:150], y[:150], X[1000:1400], y[1000:1400]

# %%
# ``probe_layers`` computes the features of all layers in one pass through the network, and
# cross-validates a linear classifier on each.
from matplotlib import pyplot as plt

from sktransfer import LayerProbeDisplay, probe_layers

choice = probe_layers(X_train, y_train, image_size=64, pooling="flatten", random_state=0)
LayerProbeDisplay.from_choice(choice)
plt.show()

# %%
# Accuracy on other digits, with the penultimate layer and with the layer that was found:
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor

for layer in (None, "auto"):
    extractor = PretrainedFeatureExtractor(layer=layer, image_size=64, pooling="flatten")
    model = make_pipeline(extractor, LogisticRegression(C=0.1, max_iter=1000))
    model.fit(X_train, y_train)
    print(f"{extractor.layers_[0]:10} {model.score(X_test, y_test):.3f}")
