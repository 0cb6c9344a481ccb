"""
Texts
=====

Word vectors and sentence encoders are used like networks for images. Here, twelve messages to a
shop are sorted by topic.
"""

# %%
texts = [
    "my parcel has not arrived yet",
    "the driver left the box in the rain",
    "how long does shipping to Norway take",
    "tracking says delivered but nothing is here",
    "I was charged twice for one order",
    "the refund is not on my account",
    "your site refuses my credit card",
    "please send an invoice with the tax number",
    "the screen was broken when I opened it",
    "the left shoe is larger than the right one",
    "the battery is empty after an hour",
    "the colour is not the one in the picture",
]
topics = ["delivery"] * 4 + ["payment"] * 4 + ["product"] * 4
new = [
    "the package is late",
    "I paid by bank transfer a week ago",
    "a button came off the shirt",
    "when will the courier come",
    "can I get my money back",
    "the kettle does not heat water",
]
answers = ["delivery", "payment", "product"] * 2

# %%
# GloVe vectors of words, and the sentence encoder e5:
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor

for backbone in ("glove_6b_50d", "e5_small"):
    model = make_pipeline(PretrainedFeatureExtractor(backbone), LogisticRegression())
    model.fit(texts, topics)
    print(f"{backbone:13} {model.score(new, answers):.2f}", *model.predict(new))

# %%
# The messages in the plane of the first two principal components of e5:
from matplotlib import pyplot as plt
from sklearn.decomposition import PCA

points = PCA(2).fit_transform(model[0].transform(texts))
figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for topic in ("delivery", "payment", "product"):
    rows = [i for i, name in enumerate(topics) if name == topic]
    axis.scatter(*points[rows].T, label=topic)
for point, text in zip(points, texts, strict=True):
    axis.annotate(text[:24] + " ...", point, fontsize="x-small")
axis.legend()
plt.show()
