"""Measure features of JPEG files, compared with other libraries.

The same ResNet-18 with the same random weights, from names of files to pooled features, at 224
x 224 pixels. *Plain loop*: batches of 32 in PyTorch. *DataLoader*: the same with two processes
that open images. *embetter*: its `ImageLoader` and `TimmEncoder`. *transformers*: the pipeline
"image-feature-extraction" with the network of timm. The features are equal to 2 %: libraries
resample images differently.

    python benchmarks/peers.py
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from _common import Case, hymenoptera, interleave, parser, record, speeds
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.transforms import v2

from sktransfer import ImagePreprocessing, PretrainedFeatureExtractor, load_backbone

QUICK = {"rounds": 3, "samples": 32}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPEN = v2.Compose(
    [
        v2.Resize((224, 224)),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]
)


class Files(torch.utils.data.Dataset):
    def __init__(self, paths: list[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int):
        return OPEN(Image.open(self.paths[i]).convert("RGB")), 0


def headless(network: nn.Module) -> nn.Module:
    copied = copy.deepcopy(network)
    copied.fc = nn.Identity()
    return copied.eval()


@torch.inference_mode()
def run_batches(network: nn.Module, batches) -> np.ndarray:
    return torch.cat([network(batch) for batch, _ in batches]).numpy()


def plain_loop(network: nn.Module, paths: list[str]) -> Callable:
    loader = torch.utils.data.DataLoader(Files(paths), 32)
    return lambda: run_batches(network, loader)


def data_loader(network: nn.Module, paths: list[str]) -> Callable:
    loader = torch.utils.data.DataLoader(Files(paths), 32, num_workers=2)
    return lambda: run_batches(network, loader)


def skorch_predict(network: nn.Module, paths: list[str]) -> Callable:
    import skorch

    net = skorch.NeuralNet(
        network, nn.MSELoss, batch_size=32, predict_nonlinearity=None, train_split=None
    ).initialize()
    return lambda: net.predict(Files(paths))


def img2vec(network: nn.Module, paths: list[str]) -> Callable:
    import img2vec_pytorch.img_to_vec as source

    whole = copy.deepcopy(network)
    whole.fc = nn.Linear(512, 1000)
    with mock.patch.object(source, "resnet18", lambda **_: whole):
        made = source.Img2Vec(model="resnet18")

    def run() -> np.ndarray:
        parts = [paths[i : i + 32] for i in range(0, len(paths), 32)]
        return np.concatenate(
            [made.get_vec([Image.open(p).convert("RGB") for p in part]) for part in parts]
        )

    return run


def of_timm(network: nn.Module) -> nn.Module:
    import timm

    made = timm.create_model("resnet18", pretrained=False, num_classes=0)
    made.load_state_dict(network.state_dict())
    return made.eval()


def embetter(network: nn.Module, paths: list[str]) -> Callable:
    import timm
    from embetter.vision import ImageLoader, TimmEncoder
    from sklearn.pipeline import make_pipeline

    whole = of_timm(network)
    with mock.patch.object(timm, "create_model", lambda *_, **__: whole):
        encoder = TimmEncoder("resnet18")
    encoder.transform_img = OPEN
    pipeline = make_pipeline(ImageLoader(), encoder)
    return lambda: pipeline.fit_transform(paths)


def transformers(network: nn.Module, paths: list[str]) -> Callable:
    from transformers import TimmWrapperConfig, TimmWrapperModel, ViTImageProcessor, pipeline

    config = TimmWrapperConfig(architecture="resnet18", do_pooling=True)
    model = TimmWrapperModel(config)
    model.timm_model = of_timm(network)
    processor = ViTImageProcessor(image_mean=list(MEAN), image_std=list(STD))
    extract = pipeline(
        "image-feature-extraction", model=model.eval(), image_processor=processor, pool=True
    )
    return lambda: np.concatenate(extract(paths, batch_size=32))


def ours(network: nn.Module, paths: list[str], **settings) -> Callable:
    squash = ImagePreprocessing((224, 224), 224, MEAN, STD, crop_mode="squash")
    backbone = load_backbone(network, preprocess=squash)
    made = PretrainedFeatureExtractor(backbone, layer=-1, device="cpu", **settings).fit(paths[:1])
    return lambda: made.transform(paths)


CONTESTANTS = {
    "plain loop": plain_loop,
    "DataLoader": data_loader,
    "skorch": skorch_predict,
    "img2vec": img2vec,
    "embetter": embetter,
    "transformers": transformers,
    "sktransfer": ours,
}


def assert_equal(outputs: dict[str, np.ndarray]) -> str:
    wanted, far = outputs["plain loop"], {}
    for name, features in outputs.items():
        distance = np.linalg.norm(features - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        far[name] = float(distance.max())
        assert far[name] <= 0.02, far
    return "largest distance to the plain loop: " + ", ".join(
        f"{name} {value:.0e}" for name, value in far.items() if value
    )


def main() -> None:
    options = parser(__doc__, rounds=5, quick=QUICK)
    options.add_argument("--samples", type=int, default=128)
    args = options.parse_args()
    warnings.filterwarnings("ignore")
    paths = hymenoptera(args.data, "train")[0][: args.samples]
    torch.manual_seed(0)
    network, variants = headless(models.resnet18()), {}
    for name, make in CONTESTANTS.items():
        try:
            with contextlib.suppress(ImportError):
                variants[name] = make(network, paths)
        except Exception as error:  # a new version of a library
            print(f"  left out: {name}, {type(error).__name__}: {error}")
    note = assert_equal({name: run() for name, run in variants.items()})
    times = interleave(variants, args.rounds, args.clock)
    slowest = Case(
        "ResNet-18, JPEG files", "images/s", speeds(times, len(paths)), "plain loop", {}, note
    )
    peers = {name: rates for name, rates in slowest.values.items() if name != "sktransfer"}
    fastest = max(peers, key=lambda name: np.median(peers[name]))
    pair = {name: slowest.values[name] for name in (fastest, "sktransfer")}
    title = "ResNet-18, JPEG files, against the fastest other"
    against = Case(
        title, "images/s", pair, fastest, {"sktransfer": 1.5}, f"the fastest is {fastest}"
    )
    record(__file__, args, [slowest, against])


if __name__ == "__main__":
    main()
