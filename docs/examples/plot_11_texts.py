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
figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
for topic in ("delivery", "payment", "product"):
    rows = [i for i, name in enumerate(topics) if name == topic]
    axis.scatter(*points[rows].T, label=topic)
for number, point in enumerate(points):
    axis.annotate(str(number + 1), point, (5, 3), textcoords="offset points", fontsize="small")
lines = [f"{number + 1:2} {text}" for number, text in enumerate(texts)]
figure.text(0.6, 0.95, "\n".join(lines), va="top", linespacing=1.8, fontsize="small")
axis.set(xlabel="first component", ylabel="second component")
axis.legend()
figure.get_layout_engine().set(rect=(0, 0, 0.58, 1))
plt.show()
