"""
DINOv3 and other networks of transformers
=========================================

A folder or a name of the Hugging Face hub is a backbone, such as
``"hf:facebook/dinov3-vits16-pretrain-lvd1689m"`` or ``"hf:google/siglip2-base-patch16-224"``. This
page runs without a download. It writes a folder of a small DINOv3 with **random weights**, which
knows nothing: everything runs as with the published weights, and accuracies would mean nothing.
"""

# %%
# A folder as ``save_pretrained`` writes it: the configuration, the tensors and the image processor.
# With published weights, this step is left out.
import tempfile

import torch
from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

folder = tempfile.mkdtemp()
torch.manual_seed(0)
config = DINOv3ViTConfig(
    image_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=4,
    num_attention_heads=4, num_register_tokens=4,
)  # fmt: skip
DINOv3ViTModel(config).save_pretrained(folder)
DINOv3ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)

# %%
# The network is divided into its blocks, and preprocessed as its image processor says.
from sktransfer import list_layers, load_backbone

name = f"hf:{folder}"
print(load_backbone(name).preprocess)
list_layers(name)

# %%
# Features are transformers' ``pooler_output``, here the class token after the last norm. Its
# authors use this token for classification; timm's networks of the same weights take the mean of
# the patches. ``layer`` and ``pooling`` read the class token and the mean of the patches.
import numpy as np
from skimage import data

from sktransfer import PretrainedFeatureExtractor

surfaces = {"brick": data.brick(), "grass": data.grass()}
corners = [(i, j) for i in (0, 96, 192) for j in (0, 96)]
X = [image[i : i + 96, j : j + 96] for image in surfaces.values() for i, j in corners]
y = np.repeat(list(surfaces), 6)
both = PretrainedFeatureExtractor(name, layer="norm", pooling=("cls", "avg"), image_size=[64, 96])
both.fit_transform(X).shape

# %%
# The last two blocks are trained, at the learning rate of transformers.
from sktransfer import FineTunedClassifier

model = FineTunedClassifier(name, trainable=2, max_epochs=1, random_state=0).fit(X, y)
model.lr_, model.net_.module_.names

# %%
# The stages with weights, and which of them were trained:
from matplotlib import pyplot as plt

trained = getattr(model.net_.module_, "names", [])
parameters = load_backbone(name).module.named_parameters()
sizes = dict.fromkeys(list_layers(name), 0)
for parameter, tensor in parameters:
    for layer in sizes:
        if f".{layer}." in f".{parameter}":
            sizes[layer] += tensor.numel()
sizes = {layer: size for layer, size in sizes.items() if size}

figure, axis = plt.subplots(figsize=(6, 2.4), layout="constrained")
colors = ["C0" if layer in trained else "0.7" for layer in sizes]
axis.barh(list(sizes), list(sizes.values()), color=colors)
axis.invert_yaxis()
axis.set(xlabel="parameters (blue: trained, grey: fixed)")
axis.spines[["top", "right"]].set_visible(False)
plt.show()
