"""Files made to do harm, and damaged ones: each is one clear error, and nothing in it runs."""

import json
import re
import resource
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sktransfer import FineTunedClassifier, load, save
from sktransfer.persistence import inspect_file
from tests.new_process import run_in_new_process
from tests.persistence import hostile
from tests.support import images, run_python, tiny_backbone

MODULES = {"tinynet": tiny_backbone}
SECONDS, MEMORY = 5, 2**30
HARMLESS = ("bit ",)  # may change what nothing reads, such as a date
DAILY = 30  # files of the everyday run


def honest_file(path: Path) -> Path:
    tuned = FineTunedClassifier(tiny_backbone(), trainable="all", max_epochs=1, random_state=0)
    model = make_pipeline(FunctionTransformer(), tuned)
    save(model.fit(images(6), ["a", "b"] * 3), path)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    made = hostile.Corpus(honest_file(folder / "honest.skt"), folder).write()
    (folder / "folder.skt").mkdir()
    return made | {"a folder": folder / "folder.skt", "no file": folder / "none.skt"}


def outcome(path: Path) -> str:
    """Load a file, and return its error."""
    try:
        model = load(path, modules=MODULES)
    except (ValueError, TypeError, OSError, ImportError) as error:
        assert type(error) in (ValueError, TypeError, FileNotFoundError, IsADirectoryError)
        assert str(error).strip()
        return str(error)
    X, before = images(4), load(path.parent / "honest.skt", modules=MODULES)
    np.testing.assert_array_equal(model.predict_proba(X), before.predict_proba(X))
    return ""


def check(name: str, path: Path) -> None:
    start = time.process_time()
    message = outcome(path)
    seconds = time.process_time() - start
    assert message or name.startswith(HARMLESS), f"{name}: loaded"
    assert "Traceback" not in message
    assert seconds < SECONDS, f"{name}: {seconds:.1f} s"


@pytest.mark.slow
def test_the_corpus_is_large_enough(corpus):
    assert len(corpus) >= 120


def test_a_sample_of_hostile_files_is_refused(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng()
    for name in rng.choice(sorted(corpus), DAILY, replace=False):
        check(name, corpus[name])
    assert not list(tmp_path.iterdir())


def test_classes_in_words_that_do_not_fit_their_network_are_refused(corpus):
    of_prompts = [name for name in corpus if name.startswith("prompts: ")]
    assert len(of_prompts) == 20
    for name in of_prompts:
        check(name, corpus[name])


@pytest.mark.sweep
def test_every_hostile_file_is_refused_in_time_and_memory(corpus, tmp_path):
    """In a new process, whose largest memory is measured file by file."""
    named = {name: str(path) for name, path in corpus.items()}
    (tmp_path / "files.json").write_text(json.dumps(named))
    printed = run_python(
        """
import json, os, resource, sys
from pathlib import Path
from tests.persistence.test_hostile import MEMORY, check
files = json.loads(Path("files.json" if len(sys.argv) < 2 else sys.argv[1]).read_text())
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
os.chdir(os.path.dirname(sys.argv[1]))
for name, path in files.items():
    before = peak()
    check(name, Path(path))
    assert peak() - before < MEMORY, name
    print(peak() - before, name)
print(sorted(os.listdir()))
""",
        tmp_path / "files.json",
    )
    assert printed.splitlines()[-1] == "['files.json']"
    print(printed)


MEASURED = """
import os, resource, sys
from sktransfer import load
from sktransfer.persistence import inspect_file
from tests.persistence.test_hostile import MODULES
honest, *paths = sys.argv[1:]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load(honest, modules=MODULES)
for path in paths:
    before = peak()
    for read in (lambda: load(path, modules=MODULES), lambda: inspect_file(path)):
        try:
            read()
        except ValueError as error:
            print(str(error)[-100:])
    taken = peak() - before
    assert taken < 2**26 + 6 * os.path.getsize(path), f"{taken / 2**20:.0f} MiB"
"""


def test_json_is_refused_before_it_takes_more_memory_than_its_file(corpus):
    """Parsed, 20 MB of empty objects would take 500 MB, and 15 MB of them 370 MB."""
    honest = corpus["no file"].parent / "honest.skt"
    paths = [corpus[name] for name in ("empty objects in the table", "a wide schema")]
    printed = run_in_new_process(MEASURED, honest, *paths)
    refused = re.findall("has more than .* values in its JSON|bytes of JSON", printed)
    assert len(refused) == 4


@pytest.mark.parametrize("name", ["cut after 5 tenths", "all deflated", "a table nested deeply"])
def test_a_hostile_file_is_not_inspected_either(name, corpus):
    with pytest.raises(ValueError, match="cannot be loaded"):
        inspect_file(corpus[name])


def test_inspection_names_types_without_importing_them(corpus):
    assert inspect_file(corpus["ObjectNode of this.that"])["types"] == ["this.that"]


def test_a_file_is_inspected_without_its_network(corpus):
    found = inspect_file(corpus["no file"].parent / "honest.skt")
    assert found["estimator"] == "Pipeline(FunctionTransformer, FineTunedClassifier)"
    assert found["classes"] == ["a", "b"]
    assert found["modules"] == ["tinynet"]
    assert found["types"] == []
    assert set(found["parts"]) == {
        "estimator.json",
        "scikit-learn.skops",
        "arrays.safetensors",
        "networks/0.safetensors",
    }


def test_an_honest_file_stays_one_after_it_is_zipped_anew(corpus, tmp_path):
    """The corpus is refused for its changes, and not for the way in which it is written."""
    source = corpus["no file"].parent / "honest.skt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "new.skt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    load(tmp_path / "new.skt", modules=MODULES)
    prompted = load(hostile.prompted_file(tmp_path / "prompted.skt"))
    assert prompted.predict(["good", "a bad film"]).tolist() == [1, 0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
