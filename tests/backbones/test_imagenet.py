from sktransfer import (
    load_backbone,
)
from sktransfer.backbones.imagenet import imagenet_classes, imagenet_ids, unique_names


def test_imagenet_classes_have_unique_names_in_the_order_of_their_ids():
    assert len(set(imagenet_classes())) == len(set(imagenet_ids())) == 1000
    assert list(imagenet_ids()) == sorted(imagenet_ids())
    named = dict(zip(imagenet_ids(), imagenet_classes(), strict=True))
    assert named["n02219486"] == "ant"
    assert named["n03710637"] == "maillot"
    assert named["n03710721"] == "maillot tank suit"  # "maillot" too, in other lists
    assert load_backbone("efficientnet_lite0").class_ids == imagenet_ids()


def test_two_duplicate_names_are_told_apart_by_their_ids():
    names = unique_names(["crane", "ant", "crane"], ["n1", "n2", "n3"])
    assert names == ("crane (n1)", "ant", "crane (n3)")
