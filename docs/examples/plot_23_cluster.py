"""
Features of many images, on a cluster
=====================================

``extract_to`` computes features by partitions, here with two workers of Dask. It writes one
file for each partition, so that it goes on where it was interrupted.
"""

# %%
# A folder of images, 60 for each of three surfaces:
import tempfile
from pathlib import Path

from matplotlib import pyplot as plt
from PIL import Image
from skimage import data

folder = Path(tempfile.mkdtemp())
for name, image in {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}.items():
    (folder / "images" / name).mkdir(parents=True)
    for i in range(60):
        row, column = divmod(i, 8)
        patch = image[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64]
        Image.fromarray(patch).save(folder / "images" / name / f"{i:02}.png")

# %%
# The network is loaded once in each process. A task ships a name, and not the network. The workers
# of this example are threads; for a cluster that exists, pass ``Client("tcp://address:8786")``.
from distributed import Client, LocalCluster

from sktransfer import PretrainedFeatureExtractor, extract_to, load_features

extractor = PretrainedFeatureExtractor(image_size=96)
settings = {"source": folder / "images", "keep": ["folder"], "partition_size": 32}
with (
    LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster,
    Client(cluster) as client,
):
    report = extract_to(folder / "features", extractor, executor=client, **settings)
print(report.n_done, "rows in", len(list((folder / "features").glob("part-*"))), "parts")

# %%
# A second call finds all parts, and computes nothing:
report = extract_to(folder / "features", extractor, **settings)
print(report.n_new, "new rows")

# %%
# The features, and the columns that were kept, in the order of the source:
from sklearn.decomposition import PCA

X, table = load_features(folder / "features")
names = table["folder"].to_pylist()
points = PCA(2).fit_transform(X)
figure, axis = plt.subplots(figsize=(5, 4), layout="constrained")
for name in sorted(set(names)):
    rows = [i for i, found in enumerate(names) if found == name]
    axis.scatter(*points[rows].T, label=name, s=12)
axis.set(xlabel="first component", ylabel="second component")
axis.legend()
plt.show()
