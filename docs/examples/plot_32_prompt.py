"""
Qwen3-Embedding with a prompt
=============================

Embedding models with decoders, such as ``"hf:Qwen/Qwen3-Embedding-0.6B"``, are trained with an
instruction before each text. This page runs without a download. It writes a folder of a small
Qwen3 with **random weights**, which knows nothing: everything runs as with the published weights,
and accuracies would mean nothing.
"""

# %%
# A folder as sentence-transformers writes it: a decoder, the vector of the last token, and prompts
# by name. With published weights, this step is left out.
import json
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

folder = Path(tempfile.mkdtemp())
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
bytes_ = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytes_.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, pad_token="<|endoftext|>")
tokenizer.save_pretrained(folder)
torch.manual_seed(0)
config = Qwen3Config(
    vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=256,
    pad_token_id=len(tokenizer) - 1,
)  # fmt: skip
Qwen3Model(config).save_pretrained(folder)
kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
modules = [
    {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for i, (path, kind) in enumerate(kinds.items())
]
(folder / "modules.json").write_text(json.dumps(modules))
(folder / "1_Pooling").mkdir()
pooling = {"word_embedding_dimension": 64, "pooling_mode": "lasttoken"}
(folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
query = "Instruct: Given a web search query, retrieve passages\nQuery: "
(folder / "config_sentence_transformers.json").write_text(
    json.dumps({"prompts": {"query": query, "document": ""}})
)

# %%
# ``prompt`` is the name of a prompt that the folder knows, or a text of your own.
from sktransfer import PretrainedFeatureExtractor, list_layers, load_backbone

name = f"hf:{folder}"
task = "Instruct: Classify the topic of a message to a shop\nQuery: "
backbones = {
    "no prompt": load_backbone(name),
    "query": load_backbone(name, prompt="query"),
    "of the task": load_backbone(name, prompt=task),
}
print(backbones["of the task"].preprocess)
list_layers(name)

# %%
# The prompt is part of the preprocessing. With another prompt, a text has another vector. So
# training samples and new ones need the same one, which a pickle or file of the model holds.
import numpy as np
from matplotlib import pyplot as plt

texts = ["my parcel is late", "I was charged twice", "the screen is broken", "where is my refund"]
vectors = {
    label: PretrainedFeatureExtractor(backbone).fit_transform(texts)  # of length one
    for label, backbone in backbones.items()
}
figure, axis = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
rows = np.arange(len(texts))
for shift, label in ((-0.2, "query"), (0.2, "of the task")):
    cosines = (vectors["no prompt"] * vectors[label]).sum(axis=1)
    bars = axis.barh(rows + shift, cosines, height=0.38, label=label)
    axis.bar_label(bars, fmt="%.2f", padding=3)
axis.axvline(1, color="0.5", linestyle="--")
axis.set_yticks(rows, texts)
axis.invert_yaxis()
axis.set(xlim=(0, 1.1), xlabel="cosine to the vector without a prompt (1: the same)")
axis.legend(title="prompt", loc="center left", bbox_to_anchor=(1, 0.5))
axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# The backbone is given to any estimator. Its last block and a head are trained here.
from sktransfer import FineTunedClassifier

model = FineTunedClassifier(backbones["of the task"], trainable=1, max_epochs=1, random_state=0)
topics = ["delivery", "payment", "product", "payment"]
model.fit(texts, topics).net_.module_.names
