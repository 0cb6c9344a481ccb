"""What torch prints about a network that it cannot export is dropped, and nothing else is."""

import logging
import sys
import threading

import pytest
from torch import nn

from sktransfer import PretrainedFeatureExtractor, load_backbone
from sktransfer.engines.quiet import quiet
from tests.support import TINY_SIZE, images


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x = self.conv(x)
        return (x + 1 if x.sum() > 0 else x).mean((2, 3))


def test_a_conversion_that_fails_is_one_error_and_prints_nothing(capfd):
    pytest.importorskip("openvino")
    backbone = load_backbone(Branch(), preprocess=TINY_SIZE)
    model = PretrainedFeatureExtractor(backbone, layer=-1, engine="openvino").fit(images(2))
    with pytest.raises(ValueError, match="cannot be converted"):
        model.transform(images(2))
    assert capfd.readouterr().err == ""


def test_other_threads_write_and_log(capsys, monkeypatch):
    monkeypatch.delenv("TORCH_LOGS", raising=False)
    heard = []
    handler = logging.Handler()
    handler.emit = heard.append
    logger = logging.getLogger("torch.fx")
    logger.addHandler(handler)

    def speak():
        print("printed", file=sys.stderr)
        logging.getLogger("torch.fx").warning("logged")

    try:
        stream = sys.stderr
        with quiet():
            speak()
            thread = threading.Thread(target=speak)
            thread.start()
            thread.join()
        assert sys.stderr is stream
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().err.count("printed") == 1
    assert [record.getMessage() for record in heard] == ["logged"]
    assert not handler.filters


def test_an_error_restores_the_stream_and_logs_that_are_asked_for_are_kept(monkeypatch, capsys):
    stream = sys.stderr
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert sys.stderr is stream
    monkeypatch.setenv("TORCH_LOGS", "export")
    with quiet():
        print("kept", file=sys.stderr)
    assert capsys.readouterr().err == "kept\n"
