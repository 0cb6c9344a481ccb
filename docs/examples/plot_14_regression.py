"""
Numbers instead of classes
==========================

``TransferRegressor`` predicts numbers from images. Here, how far a patch of a photograph has been
turned.
"""

# %%
# Patches of brick, turned by up to 45 degrees:
import numpy as np
from matplotlib import pyplot as plt
from skimage import data
from skimage.transform import rotate

rng = np.random.default_rng(0)
image = data.brick()
angles = rng.uniform(-45, 45, 160)
corners = rng.integers(0, 512 - 140, (160, 2))
X = [
    rotate(image[r : r + 140, c : c + 140], angle)[30:110, 30:110]
    for (r, c), angle in zip(corners, angles, strict=True)
]
figure, axes = plt.subplots(1, 5, figsize=(8, 2.1), layout="constrained")
for axis, x, angle in zip(axes, X, angles, strict=False):
    axis.imshow(x, cmap="gray")
    axis.set_title(f"{angle:.0f}°", fontsize="medium")
    axis.axis("off")
plt.show()

# %%
from sklearn.metrics import PredictionErrorDisplay, mean_absolute_error

from sktransfer import TransferRegressor

model = TransferRegressor(image_size=96, random_state=0).fit(X[:80], angles[:80])
predicted = model.predict(X[80:])
print(f"mean absolute error: {mean_absolute_error(angles[80:], predicted):.1f} degrees")
display = PredictionErrorDisplay.from_predictions(
    angles[80:], predicted, kind="actual_vs_predicted"
)
# sphinx_gallery_thumbnail_number = 2
ticks = range(-45, 46, 15)
display.ax_.set(xlabel="predicted angle", ylabel="true angle", xticks=ticks, yticks=ticks)
plt.show()
