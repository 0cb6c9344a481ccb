"""
A report on data and a model
============================

``report`` writes one page of HTML, without scripts, that needs no network: the data, the model,
scores with intervals, calibration, confusions, the worst errors with what they depend on, labels
that are probably wrong, and costs. On the command line it is ``sktransfer report FOLDER``.
"""

# %%
# One label is wrong, one image is there twice, and one file is damaged.
import tempfile
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

from sktransfer import TransferClassifier
from sktransfer.inspection import report

folder = Path(tempfile.mkdtemp())
digits = load_digits()
X, y = [], [f"digit {label}" for label in digits.target[:150]]
for i, image in enumerate(digits.images[:150]):
    X.append(folder / f"{i:03}.png")
    Image.fromarray((image * 15.9).astype("uint8")).resize((64, 64)).save(X[-1])
y[20] = "digit 7"
X[149].write_bytes(X[0].read_bytes())
y[149] = y[0]
X[140].write_bytes(b"damaged")

# %%
# Each sample is predicted by a blend that was fitted without it.
model = TransferClassifier(image_size=64, random_state=0)
made = report(model, X, y, folder / "report.html", cv=3, n_shown=4)
for score in made.scores:
    print(f"{score.name:18} {score.value:.3f}  ({score.low:.3f} to {score.high:.3f})")
print(made.issues)

# %%
# The label that is wrong, and the image that is there twice:
from matplotlib import pyplot as plt

issues = made.issues
assert issues is not None  # which it is without probabilities, and for numbers
wrong, (first, copy) = issues.indices[0], made.duplicates.pairs[0]
titles = {
    wrong: f"{X[wrong].name}: {y[wrong]}?\nprobably {issues.suggested[0]}",
    first: f"{X[first].name}\nnearly equal to",
    copy: f"\n{X[copy].name}",
}
figure, axes = plt.subplots(1, 3, figsize=(6.5, 2.9), layout="constrained")
for axis, (i, title) in zip(axes, titles.items(), strict=True):
    axis.imshow(Image.open(X[i]), cmap="gray")
    axis.set_title(title, fontsize="medium")
    axis.set(xticks=[], yticks=[])
axes[0].spines[:].set(color="red", linewidth=3)
plt.show()

# %%
# This is the page. In a notebook it is shown in a frame; it is also a file that can be sent to
# anyone.
made
