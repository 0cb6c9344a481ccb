"""
Classes in words
================

Networks that read texts need no labelled samples: a text that describes each class will do. Here,
messages to a shop are sorted by topic before anyone has sorted one.
"""

# %%
messages = [
    "the package is late",
    "when will the courier come",
    "I paid by bank transfer a week ago",
    "can I get my money back",
    "a button came off the shirt",
    "the kettle does not heat water",
]
answers = ["delivery", "delivery", "payment", "payment", "product", "product"]

# %%
# ``prompts`` maps each label to a text, or to a list of texts, whose vectors are averaged.
# ``make_prompts`` makes them of names and templates.
from sktransfer import PretrainedClassifier, make_prompts

names = {
    "delivery": ["shipping", "a parcel that is late"],
    "payment": ["paying or a refund", "an invoice"],
    "product": ["a broken product", "a defect"],
}
prompts = make_prompts(names, "a customer writes about {}")
model = PretrainedClassifier("minilm_l6_v2", prompts=prompts).fit(messages)
print(f"{model.score(messages, answers):.2f}", *model.predict(messages))

# %%
# What the network is certain of, without a single label:
from matplotlib import pyplot as plt

figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
image = axis.imshow(model.predict_proba(messages), cmap="Blues", vmin=0, vmax=1, aspect="auto")
axis.set_xticks(range(3), model.classes_)
axis.set_yticks(range(6), messages)
figure.colorbar(image, label="probability")
plt.show()

# %%
# With some labels, the same prompts are a member of a blend, or the beginning of a trained head.
from sktransfer import TransferClassifier

blend = TransferClassifier("minilm_l6_v2", prompts=prompts, random_state=0)
blend.fit(["it has not arrived", "I was charged twice", "the screen is broken"], model.classes_)
dict(zip(blend.members_, blend.weights_.round(2).tolist(), strict=True))

# %%
# Networks for images and texts, such as CLIP and SigLIP, do the same with photographs. Their
# probabilities are those of transformers' pipeline for zero-shot classification.
#
# .. code-block:: python
#
#    prompts = make_prompts(["ant", "bee"], ["a photo of an {}", "a close-up of an {}"])
#    PretrainedClassifier("hf:google/siglip2-base-patch16-224", prompts=prompts).fit(photos)
