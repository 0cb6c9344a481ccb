import contextlib
import dataclasses
import json

import numpy as np
import pytest

from sktransfer.features.partitions.folder import FeatureColumn, Folder, Manifest

MANIFEST_OF_ONE = Manifest("k", (FeatureColumn("a", 2, "x"),), "float32", 4, "net", ("s", "00" * 8))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:30],
        lambda text: "[]",
        lambda text: "\xff",
        lambda text: text.replace('"dtype"', '"type"'),
        lambda text: json.dumps(json.loads(text) | {"later": 1}),
        lambda text: text.replace("0000", "zz"),
        lambda text: json.dumps(json.loads(text) | {"behavior": ["s"]}),
        lambda text: json.dumps(json.loads(text) | {"columns": 3}),
    ],
)
def test_a_damaged_manifest_is_named_with_the_way_out(damage, tmp_path):
    folder = Folder(tmp_path)
    MANIFEST_OF_ONE.save(folder)
    MANIFEST_OF_ONE.check(folder)
    path = tmp_path / "_features.json"
    path.write_text(damage(path.read_text()), "latin-1")
    with pytest.raises(ValueError, match=r"_features.json' is damaged, or of a later.* another t"):
        MANIFEST_OF_ONE.check(folder)


@pytest.mark.parametrize("change, same", [(1e-5, True), (3e-4, False), (np.nan, False)])
def test_a_network_that_computes_something_else_is_noticed(change, same, tmp_path):
    row, folder = np.float32([1, 1]), Folder(tmp_path)
    for factor in (1.0, 1.0 + change):
        behavior = ("s", np.float32(row * factor).tobytes().hex())
        manifest = dataclasses.replace(MANIFEST_OF_ONE, behavior=behavior)
        manifest.save(folder)
    with contextlib.nullcontext() if same else pytest.raises(ValueError, match="not compute any"):
        manifest.check(folder)
