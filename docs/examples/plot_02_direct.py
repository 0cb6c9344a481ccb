"""
A pretrained network as it is
=============================

``PretrainedClassifier`` predicts the classes that the network was trained on, or your classes if
you say which of its classes belong to them. Nothing is trained, and no labels are needed.
"""

# %%
# The two photographs that ship with scikit-learn, classified into the 1,000 classes of ImageNet:
from matplotlib import pyplot as plt
from sklearn.datasets import load_sample_images

from sktransfer import PretrainedClassifier

photos = load_sample_images().images
classifier = PretrainedClassifier().fit(photos)
names, probabilities = classifier.predict_top_k(photos, k=5)

figure, axes = plt.subplots(2, 2, figsize=(8, 5), layout="constrained")
for row, photo, labels, values in zip(axes, photos, names, probabilities, strict=True):
    row[0].imshow(photo)
    row[0].axis("off")
    row[1].barh(labels[::-1], values[::-1])
    row[1].set_xlabel("probability")
plt.show()

# %%
# With ``class_map``, the probabilities of several classes of the network are added up. The classes
# that are not in the mapping are ignored.
mapped = PretrainedClassifier(class_map={"house": ["palace", "boathouse"], "flower": ["daisy"]})
mapped.fit(photos).predict(photos)
