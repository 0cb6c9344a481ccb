"""
What a prediction depends on
============================

``sktransfer.inspection`` shows which parts of an image or which words of a text speak for a label,
which labels are probably wrong, and which samples are nearly equal.
"""

# %%
# Red parts speak for the predicted label, blue parts against it.
from matplotlib import pyplot as plt
from skimage import data
from sklearn.datasets import load_digits, load_sample_images

from sktransfer import PretrainedClassifier, PretrainedFeatureExtractor
from sktransfer.inspection import SaliencyDisplay

photos = [*load_sample_images().images, data.chelsea(), data.coffee()]
classifier = PretrainedClassifier().fit(photos)
SaliencyDisplay.from_estimator(classifier, photos)
plt.show()

# %%
# Any model can be explained by what it predicts without parts of a sample:
SaliencyDisplay.from_estimator(classifier, photos[:2], method="occlusion")
plt.show()

# %%
# For texts, the parts are words.
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

texts = ["a lovely film", "a dull film", "great fun", "very boring", "wonderful", "awful mess"]
model = make_pipeline(PretrainedFeatureExtractor("glove_6b_50d"), LogisticRegression())
model.fit(texts, ["good", "bad"] * 3)
SaliencyDisplay.from_estimator(
    model, ["the story is boring but the actors are wonderful"], target="good"
)
plt.show()

# %%
# Two labels are wrong, and a copy of an image is mirrored and brightened.
from sktransfer.inspection import find_label_issues, find_near_duplicates

digits = load_digits()
X, y = list(digits.images[:200] / 16), digits.target[:200].copy()
y[[20, 50]] = 7
extractor = PretrainedFeatureExtractor(layer="blocks.9", pooling="flatten", image_size=64)
model = make_pipeline(extractor, LogisticRegression(C=0.01))
print(find_label_issues(model, X, y))

copies = [*photos, (photos[0][:, ::-1] * 0.9 + 25).astype("uint8")]
print(find_near_duplicates(PretrainedFeatureExtractor().fit(copies), copies).pairs)

# %%
# Features in two dimensions: the frames have the colours of the labels.
from sktransfer.inspection import ConfusionDisplay, FeatureMapDisplay

FeatureMapDisplay.from_estimator(extractor.fit(X), X, y.astype(str))
plt.show()

# %%
# The confusion matrix, and the wrong predictions that are the most certain:
ConfusionDisplay.from_estimator(model.fit(X[:80], y[:80]), X[80:], y[80:])
plt.show()
