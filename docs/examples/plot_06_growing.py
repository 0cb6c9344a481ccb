"""
From two classes to three
=========================

A fitted classifier can be the start of another one that knows more classes. The rows of the head
for the old classes are kept, and only the new row begins without knowledge.
"""

# %%
import numpy as np
from skimage import data


def patches(image, side=64):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
X = {name: patches(image) for name, image in surfaces.items()}

# %%
# A model of two classes, from ten patches of each:
from sktransfer import FineTunedClassifier

two = FineTunedClassifier(trainable="head", image_size=96, random_state=0)
two.fit(X["brick"][:10] + X["grass"][:10], ["brick"] * 10 + ["grass"] * 10)
two.classes_

# %%
# A third class has appeared, of which five patches are labelled. The fitted model becomes the
# backbone of a new one:
three = FineTunedClassifier(two, trainable="head", image_size=96, random_state=0)
three.fit(
    X["brick"][:10] + X["grass"][:10] + X["gravel"][:5],
    ["brick"] * 10 + ["grass"] * 10 + ["gravel"] * 5,
)
three.classes_

# %%
# Accuracy on the other patches, and what both models say about those of the new surface:
from matplotlib import pyplot as plt

tests = [x for name in X for x in X[name][10:]]
y_test = np.repeat(list(X), 54)
print(f"accuracy with three classes: {three.score(tests, y_test):.3f}")

gravel = X["gravel"][10:]
figure, axis = plt.subplots(figsize=(7, 2), layout="constrained")
for row, model in {"three classes": three, "two classes": two}.items():
    predicted, left = model.predict(gravel), 0
    for name, color in {"brick": "C3", "grass": "C2", "gravel": "C0"}.items():
        share = np.mean(predicted == name)
        bar = axis.barh(row, share, left=left, color=color)
        axis.bar_label(bar, [name if share else ""], label_type="center", color="white")
        left += share
axis.set(xlabel="patches of gravel, by their predicted class", xlim=(0, 1))
plt.show()
