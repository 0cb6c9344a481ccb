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
# What e5 says about the new messages, none of which shares its main words with the others:
from matplotlib import pyplot as plt

probabilities = model.predict_proba(new)
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
axis.imshow(probabilities, cmap="Blues", vmin=0, vmax=1, aspect="auto")
for row, values in enumerate(probabilities):
    for column, value in enumerate(values):
        color = "white" if value > 0.5 else "black"
        axis.text(column, row, f"{value:.0%}", ha="center", va="center", color=color)
axis.set_xticks(range(3), model.classes_)
axis.set_yticks(range(len(new)), new)
axis.xaxis.tick_top()
plt.show()
