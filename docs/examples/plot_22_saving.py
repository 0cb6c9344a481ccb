"""
A file for others, and a graph for other programs
=================================================

``sktransfer.save`` writes a file that anyone may open, because loading it executes nothing.
``to_onnx`` writes a graph for programs without sktransfer and PyTorch.
"""

# %%
# A classifier of surfaces:
import numpy as np
from skimage import data
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import sktransfer


def patches(image, side=64):
    rows = range(0, image.shape[0], side)
    return [image[r : r + side, c : c + side] for r in rows for c in rows]


surfaces = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
X = [patch for image in surfaces.values() for patch in patches(image)]
y = np.repeat(list(surfaces), 64)
model = make_pipeline(
    sktransfer.PretrainedFeatureExtractor(image_size=96), LogisticRegression(max_iter=1000)
)
model.fit(X[::8], y[::8])

# %%
# The weights of the network are not in the file, but their name and fingerprint. So the file is
# small.
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
sktransfer.save(model, folder / "model.skt")
print(f"{(folder / 'model.skt').stat().st_size / 1000:.0f} kB")
again = sktransfer.load(folder / "model.skt")
assert (again.predict(X) == model.predict(X)).all()

# %%
# The same model as a graph of ONNX, which includes the network. Images are resized outside.
import onnxruntime

sktransfer.to_onnx(model, folder / "model.onnx")
session = onnxruntime.InferenceSession(folder / "model.onnx")
(source,) = session.get_inputs()
print(source.name, source.shape, source.type)

# %%
# Patches of one colour channel become three, and are resized as the network expects:
from matplotlib import pyplot as plt
from PIL import Image

images = np.stack([np.asarray(Image.fromarray(x).convert("RGB").resize((96, 96))) for x in X[1::8]])
if source.shape[1] == 3:
    images = images.transpose(0, 3, 1, 2)
labels, probabilities = session.run(None, {source.name: images})
difference = np.abs(probabilities - model.predict_proba(X[1::8])).max(axis=1)

print(f"{(labels == model.predict(X[1::8])).mean():.0%} of the labels are equal")
print(f"largest difference of a probability, from the resize: {difference.max():.3f}")

# %%
# The sizes of the files. With ``self_contained=True``, the weights of the network are in the file.
sktransfer.save(model, folder / "self-contained.skt", self_contained=True)
sizes = {
    name: (folder / name).stat().st_size / 1e6
    for name in ("model.skt", "self-contained.skt", "model.onnx")
}
figure, axis = plt.subplots(figsize=(6, 1.8), layout="constrained")
bars = axis.barh(list(sizes), list(sizes.values()), color=["C0", "0.7", "0.7"])
axis.bar_label(bars, fmt="%.2f MB", padding=3)
axis.invert_yaxis()
axis.set(xlabel="megabytes", xlim=(0, 1.2 * max(sizes.values())))
axis.spines[["top", "right"]].set_visible(False)
plt.show()
