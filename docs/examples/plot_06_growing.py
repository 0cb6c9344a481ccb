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

gravel = X["gravel"][10::10]
models = {"two classes:": two, "three classes:": three}
figure, axes = plt.subplots(2, 1 + len(gravel), figsize=(8, 3), layout="constrained")
for row, (title, model) in zip(axes, models.items(), strict=True):
    row[0].text(1, 0.5, title, ha="right", va="center")
    row[0].axis("off")
    for axis, patch, name in zip(row[1:], gravel, model.predict(gravel), strict=True):
        axis.imshow(patch, cmap="gray")
        axis.set_title(name, fontsize="medium", color="C2" if name == "gravel" else "C3")
        axis.axis("off")
plt.show()
