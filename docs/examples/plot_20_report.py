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
# sphinx_gallery_thumbnail_path = "guide/report.png"

# %%
# This is the page. In a notebook it is shown in a frame; it is also a file that can be sent to
# anyone.
made
