import errno
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import psutil
import pytest
from sklearn.base import clone

import sktransfer
from sktransfer import PretrainedFeatureExtractor, extract_to
from sktransfer.features import block_folder
from sktransfer.features.block_folder import BlockFolder
from sktransfer.features.store import FeatureStore, as_store
from tests.support import images, tiny_backbone

ROW = 128 + 400  # bytes of a file with 100 float32

# Other processes need no torch: store.py and disk.py stand alone, without their packages.
WRITER = """
import os, sys, types
import numpy as np
for name in ("sktransfer", "sktransfer.data", "sktransfer.features"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [os.path.join(os.environ["ROOT"], *name.split("."))]
from sktransfer.features.store import FeatureStore
assert "torch" not in sys.modules
store = FeatureStore(sys.argv[1])
who = int(sys.argv[2])
print("ready", flush=True)
for i in range(int(sys.argv[3])):
    digests = [f"{who}/{i}/{k}".encode() for k in range(5)]
    store.put("own", digests, np.full((5, 300), who * 1000 + i, np.float32))
    store.put("common", [str(i).encode()], np.full((1, 300), i, np.float32))
"""


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store")


def rows(*numbers):
    return np.repeat(np.array(numbers, np.float32)[:, None], 100, axis=1)


def files_of(store):
    return sorted(store.path.glob("*.rows"))


def file_of(store) -> Path:
    (path,) = files_of(store)
    return path


def filled(location, digests, values) -> Path:
    """The file of a new store."""
    store = FeatureStore(location)
    store.put("recipe", digests, values)
    return file_of(store)


def writer(location, who=0, n=20):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(location), str(who), str(n)],
        env=os.environ | {"ROOT": str(Path(sktransfer.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8, np.int64, bool])
@pytest.mark.parametrize("shape", [(3, 5), (3,), (3, 2, 4, 1), (3, 0), (3, 4, 0, 2)])
def test_values_come_back_with_their_shape_type_and_bits(store, shape, dtype):
    values = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    store.put("recipe", [b"a", b"b", b"c"], values)
    found = store.get("recipe", [b"c", b"a", b"b"])
    assert all(value.dtype == dtype for value in found)
    assert [v.tobytes() for v in found] == [values[i].tobytes() for i in (2, 0, 1)]
    assert [v.shape for v in found] == [shape[1:]] * 3


def test_not_a_number_and_infinity_are_values_too(store):
    values = np.array([[np.nan, np.inf, -0.0]], np.float32)
    store.put("recipe", [b"a"], values)
    assert store.get("recipe", [b"a"])[0].tobytes() == values.tobytes()


def test_what_is_not_there_is_none(store):
    store.put("recipe", [b"a"], rows(1))
    found = store.get("recipe", [b"b", b"a", b"b"])
    assert found[0] is found[2] is None
    assert np.array_equal(found[1], rows(1)[0])


def test_no_samples_are_nothing_to_find_or_to_write(store):
    store.put("recipe", [], rows()[:0])
    assert store.get("recipe", []) == [] and not store.path.exists()
    store.put("recipe", [b"a"], rows(1))
    assert store.get("recipe", []) == []


def test_another_recipe_is_another_entry(store):
    store.put("one", [b"a"], rows(1))
    store.put("two", [b"a"], rows(2))
    assert [store.get(recipe, [b"a"])[0][0] for recipe in ("one", "two")] == [1, 2]
    assert store.get("three", [b"a"]) == [None]


def test_the_last_value_put_counts(store):
    store.put("recipe", [b"a"], rows(1))
    store.put("recipe", [b"a"], rows(2))
    assert store.get("recipe", [b"a"])[0][0] == 2
    assert len(store) == 1


def test_more_samples_than_one_file_takes(store):
    digests = [i.to_bytes(4, "big") for i in range(1501)]
    store.put("recipe", digests, np.arange(1501.0)[:, None])
    found = store.get("recipe", digests[::-1])
    assert [value[0] for value in found] == list(range(1500, -1, -1))


@pytest.mark.parametrize(("n_rows", "n_files"), [(512, 1), (513, 2)])
def test_a_file_takes_512_rows_and_4_mebibytes(store, n_rows, n_files):
    digests = [i.to_bytes(4, "big") for i in range(n_rows)]
    store.put("recipe", digests, np.ones((n_rows, 1024)))  # 8 KiB each
    store.put("other", digests[:2], np.ones((2, 2**19)))
    assert len(files_of(store)) == n_files + 2


def test_values_outlive_the_store_that_put_them(store):
    store.put("recipe", [b"a"], rows(1))
    again = FeatureStore(str(store.location))
    assert np.array_equal(again.get("recipe", [b"a"])[0], rows(1)[0])
    assert (len(again), again.nbytes) == (1, ROW)


@pytest.mark.slow
def test_several_processes_write_into_one_new_folder(tmp_path):
    writers = [writer(tmp_path / "new", who) for who in range(4)]
    errors = [process.communicate(timeout=100)[1] for process in writers]
    assert errors == [""] * 4
    store = FeatureStore(tmp_path / "new")
    assert len(store) == 4 * 20 * 5 + 20
    for who in range(4):
        for i in range(20):
            found = store.get("own", [f"{who}/{i}/{k}".encode() for k in range(5)])
            assert all((value == who * 1000 + i).all() for value in found)


def test_what_another_store_puts_and_clears_is_seen_at_once(tmp_path):
    store, other = FeatureStore(tmp_path), FeatureStore(tmp_path)
    assert store.get("recipe", [b"a"]) == [None]
    other.put("recipe", [b"a"], rows(1))
    assert store.get("recipe", [b"a"])[0][0] == 1
    other.clear()
    assert store.get("recipe", [b"a"]) == [None]
    assert len(store) == 0
    store.put("recipe", [b"a"], rows(2))
    assert other.get("recipe", [b"a"])[0][0] == 2


def test_a_folder_that_is_listed_is_not_listed_again_until_it_changes(store, monkeypatch):
    store.put("recipe", [b"a"], rows(1))
    os.utime(store.path, (0, 0))  # long ago
    store.get("recipe", [b"b"])
    with monkeypatch.context() as m:
        m.setattr(os, "listdir", lambda folder: pytest.fail("listed"))
        assert store.get("recipe", [b"b", b"a"])[0] is None
    FeatureStore(store.location).put("recipe", [b"b"], rows(2))
    assert store.get("recipe", [b"b"])[0][0] == 2


def test_what_another_store_removed_is_not_searched_again(store, monkeypatch):
    store.put("recipe", [b"a"], rows(1))
    FeatureStore(store.location).clear()
    os.utime(store.path, (0, 0))  # long ago
    assert store.get("recipe", [b"a"]) == [None]
    with monkeypatch.context() as m:
        m.setattr(os, "listdir", lambda folder: pytest.fail("listed"))
        assert store.get("recipe", [b"a"]) == [None]


def test_rows_are_found_that_came_when_the_folder_was_listed(store):
    other = FeatureStore(store.location)
    other.put("recipe", [b"a"], rows(1))
    changed = time.time_ns() + 10**9  # the clock of the file system is ahead
    os.utime(store.path, ns=(changed, changed))
    assert store.get("recipe", [b"b"]) == [None]
    other.put("recipe", [b"b"], rows(2))
    os.utime(store.path, ns=(changed, changed))  # as a coarse clock says
    assert store.get("recipe", [b"b"])[0][0] == 2


def test_a_folder_that_was_deleted_is_made_anew(store):
    store.put("recipe", [b"a"], rows(1))
    shutil.rmtree(store.location)
    assert store.get("recipe", [b"a"]) == [None]
    store.put("recipe", [b"a"], rows(2))
    assert store.get("recipe", [b"a"])[0][0] == 2


@pytest.mark.parametrize("in_order", [True, False])
def test_many_small_files_are_joined_and_lose_nothing(store, in_order):
    other = FeatureStore(store.location)
    digests = [i.to_bytes(4, "big") for i in range(600)]
    for i, digest in enumerate(digests):
        store.put("recipe", [digest], rows(i if i < 590 else -1))
        if i == 200:
            assert other.get("recipe", digests[:200])[7][0] == 7
    for i, digest in enumerate(digests[590:], 590):  # the last value counts
        store.put("recipe", [digest], rows(i))
    assert len(files_of(store)) < 256
    order = np.arange(600) if in_order else np.random.default_rng(0).permutation(600)
    for reader in (store, other, FeatureStore(store.location)):
        found = reader.get("recipe", [digests[i] for i in order])
        assert [value[0] for value in found] == order.tolist()
        assert len(reader) == 600


@pytest.mark.skipif(sys.platform != "linux", reason="counts what the process writes")
def test_a_row_is_copied_once_at_most(store):
    process = psutil.Process()
    before = process.io_counters().write_chars
    for i in range(600):  # rows of 40 bytes: joined files of them are small, too
        digests = [f"{i}/{k}".encode() for k in range(40)]
        store.put("recipe", digests, np.full((40, 10), i, np.float32))
    assert process.io_counters().write_chars - before < 2.1 * store.nbytes
    assert store.get("recipe", [f"{i}/0".encode() for i in range(600)])[7][0] == 7


def test_rows_of_different_shapes_are_joined(store):
    digests = [i.to_bytes(4, "big") for i in range(300)]
    for i in range(300):
        values = np.empty(1, object)
        values[0] = np.full((i % 7, 3), i, np.float16 if i % 2 else np.float32)
        store.put("recipe", [digests[i]], values)
    assert len(files_of(store)) < 256
    found = FeatureStore(store.location).get("recipe", digests)
    for i, value in enumerate(found):
        assert value.shape == (i % 7, 3)
        assert value.dtype == (np.float16 if i % 2 else np.float32)
        assert (value == i).all()


def test_small_files_that_are_damaged_or_gone_do_not_prevent_joining(store):
    digests = [i.to_bytes(4, "big") for i in range(300)]
    for i, digest in enumerate(digests[:200]):
        store.put("recipe", [digest], rows(i))
    gone, damaged = files_of(store)[3:5]
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    for i, digest in enumerate(digests[200:], 200):
        store.put("recipe", [digest], rows(i))
    assert len(files_of(store)) < 256
    found = store.get("recipe", digests)
    assert [i for i, value in enumerate(found) if value is None] == [3, 4]
    assert all((value == i).all() for i, value in enumerate(found) if value is not None)


@pytest.mark.parametrize("recent", [0, 7, 2**13])
def test_keys_are_found_however_many_are_new(store, recent, monkeypatch):
    monkeypatch.setattr(block_folder, "_RECENT", recent)
    digests = [i.to_bytes(4, "big") for i in range(40)]
    for part in (digests[:20], digests[10:30], digests[5:6]):
        value = sum(map(int, part[0])) + len(part)  # the last value counts
        store.put("recipe", part, rows(*[value] * len(part)))
    expected = [20] * 5 + [6] + [20] * 4 + [30] * 20 + [None] * 10
    for reader in (store, FeatureStore(store.location)):
        found = reader.get("recipe", digests)
        assert [value if value is None else value[0] for value in found] == expected
        assert len(reader) == 30


def test_small_files_stay_where_there_is_no_room_to_join_them(small_disk, monkeypatch):
    monkeypatch.setattr(block_folder, "_JOINED", 4)
    store = FeatureStore(small_disk / "store")
    digests = [i.to_bytes(4, "big") for i in range(5)]
    for i, digest in enumerate(digests):  # five rows of 40 kB fill most of 256 kB
        store.put("recipe", [digest], np.full((1, 10_000), i, np.float32))
    assert len(files_of(store)) == 5
    assert [value[0] for value in store.get("recipe", digests)] == list(range(5))


def test_of_files_that_are_joined_the_last_written_counts(store, monkeypatch):
    monkeypatch.setattr(block_folder, "_JOINED", 4)
    FeatureStore(store.location).put("recipe", [b"a"], rows(1))
    store.put("recipe", [b"a"], rows(2))
    assert store.get("recipe", [b"b"]) == [None]  # here it learns of the first file
    for name in (b"c", b"d"):
        store.put("recipe", [name], rows(3))
    assert len(files_of(store)) == 1
    assert FeatureStore(store.location).get("recipe", [b"a"])[0][0] == 2


def test_files_that_a_killed_process_left_are_removed_after_a_day(store):
    store.path.mkdir(parents=True)
    old, new = store.path / ".new-1", store.path / ".new-2"
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    store.put("recipe", [b"a"], rows(1))
    assert not old.exists()
    assert new.exists()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.2])
def test_a_killed_writer_leaves_a_store_to_read_and_write(tmp_path, seconds):
    process = writer(tmp_path, n=1_000_000)
    process.stdout.readline()
    threading.Event().wait(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=100)
    store = FeatureStore(tmp_path)
    n_before = len(store)
    for i in range(n_before // 6):
        found = store.get("own", [f"0/{i}/{k}".encode() for k in range(5)])
        assert all((value == i).all() for value in found)  # none missing, none half
    store.put("recipe", [b"a"], rows(7))
    assert store.get("recipe", [b"a"])[0][0] == 7
    assert len(store) == n_before + 1


@pytest.mark.parametrize("place", [0, 10, 399])
def test_a_row_with_a_flipped_bit_is_a_miss(store, place):
    store.put("recipe", [b"a", b"b"], rows(1, 2))
    content = bytearray(file_of(store).read_bytes())
    content[len(content) - 800 + place] ^= 1
    file_of(store).write_bytes(content)
    found = store.get("recipe", [b"a", b"b"])
    assert found[0] is None
    assert found[1][0] == 2
    store.put("recipe", [b"a"], rows(3))
    for reader in (store, FeatureStore(store.location)):
        assert reader.get("recipe", [b"a"])[0][0] == 3


def test_a_file_whose_head_was_damaged_after_it_was_listed_is_a_miss(store):
    store.put("recipe", [b"a"], rows(1))
    file_of(store).write_bytes(b"x" + file_of(store).read_bytes()[1:])
    assert store.get("recipe", [b"a"]) == [None]


@pytest.mark.parametrize("damage", ["garbage", "middle", "shortened", "empty", "size of the head"])
def test_a_damaged_file_is_a_miss_and_is_written_again(tmp_path, damage):
    digests = [i.to_bytes(4, "big") for i in range(400)]
    path = filled(tmp_path, digests, np.ones((400, 100)))
    content = path.read_bytes()
    half = len(content) // 2
    damaged = {
        "garbage": b"no features at all " * 1000,
        "middle": content[:16384] + b"\xff" * (len(content) - 16384),
        "shortened": content[:half],
        "empty": b"",
        "size of the head": content[:8] + b"\xff" * 8 + content[16:],
    }[damage]
    path.write_bytes(damaged)
    store = FeatureStore(tmp_path)
    assert store.get("recipe", digests) == [None] * 400
    store.put("recipe", digests, np.full((400, 100), 2.0))
    assert all((v == 2).all() for v in store.get("recipe", digests))
    assert all((v == 2).all() for v in FeatureStore(tmp_path).get("recipe", digests))


def test_files_that_were_exchanged_give_rows_of_their_keys_or_none(store):
    store.put("one", [b"a"], rows(1))
    store.put("two", [b"b", b"a"], rows(2, 3))
    first, second = files_of(store)
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    found = {"one": store.get("one", [b"a"]), "two": store.get("two", [b"b", b"a"])}
    expected = {"one": [1], "two": [2, 3]}
    for recipe, values in found.items():
        for value, number in zip(values, expected[recipe], strict=True):
            assert value is None or value[0] == number


def test_the_least_recently_used_go_first(tmp_path):
    store = FeatureStore(tmp_path, max_bytes=3 * ROW)
    for i, name in enumerate([b"a", b"b", b"c"]):
        store.put("recipe", [name], rows(i))
    store.get("recipe", [b"a"])
    store.put("recipe", [b"d"], rows(3))
    found = store.get("recipe", [b"a", b"b", b"c", b"d"])
    assert [value is None for value in found] == [False, True, False, False]
    assert store.nbytes == 3 * ROW


def test_the_bound_holds_when_more_is_put_at_once(tmp_path):
    store = FeatureStore(tmp_path, max_bytes=3 * ROW)
    store.put("recipe", [b"a", b"b", b"c", b"d", b"e"], rows(0, 1, 2, 3, 4))
    assert (len(store), store.nbytes) == (3, 3 * ROW)


def test_clear_removes_everything_and_gives_the_disk_back(store):
    store.put("recipe", [i.to_bytes(4, "big") for i in range(1000)], np.ones((1000, 1000)))
    store.clear()
    assert (len(store), store.nbytes) == (0, 0)
    assert store.get("recipe", [bytes(4)]) == [None]
    assert list(store.path.iterdir()) == []


def test_clear_removes_what_is_known_of_the_code_too(store):
    (store.generations / "one").mkdir(parents=True)
    store.clear()
    assert not store.generations.exists()


def test_rows_that_were_extracted_to_the_folder_are_found(tmp_path):
    X, backbone = images(3), tiny_backbone()
    extract_to(tmp_path, PretrainedFeatureExtractor(backbone), source=X)
    PretrainedFeatureExtractor(backbone, memory=tmp_path).fit_transform(X)
    assert len(FeatureStore(tmp_path)) == 0  # nothing was computed and put


def test_what_was_computed_by_the_way_is_kept_too(store):
    assert store.try_put("recipe", [b"a"], rows(1), aside=True)
    assert store.get("recipe", [b"a"])[0][0] == 1


def test_a_pickled_store_is_the_same_place(tmp_path):
    store = FeatureStore(tmp_path, max_bytes=10 * ROW)
    store.put("recipe", [b"a"], rows(1))
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.location, copy.max_bytes) == (tmp_path, 10 * ROW)
    assert copy.get("recipe", [b"a"])[0][0] == 1
    copy.put("recipe", [b"b"], rows(2))
    assert store.get("recipe", [b"b"])[0][0] == 2


def test_a_clone_is_the_store_itself(store):
    assert clone(store) is store


def test_a_forked_child_opens_the_file_anew(store):
    store.put("recipe", [b"a"], rows(1))

    def child():
        assert store.get("recipe", [b"a"])[0][0] == 1
        store.put("recipe", [b"b"], rows(2))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert store.get("recipe", [b"b"])[0][0] == 2


def test_threads_share_a_store(store):
    def use(who):
        for i in range(20):
            store.put("recipe", [bytes([who, i])], rows(who * i))
            assert store.get("recipe", [bytes([who, i])])[0][0] == who * i

    joblib.Parallel(4, prefer="threads")(joblib.delayed(use)(who) for who in range(4))
    assert len(store) == 80


def test_as_store_takes_all_that_scikit_learn_calls_memory(tmp_path, store):
    assert as_store(None) is None
    assert as_store(store) is store
    assert as_store(tmp_path).location == as_store(str(tmp_path)).location == tmp_path
    memory = joblib.Memory(tmp_path, verbose=0)
    assert as_store(memory).location == Path(memory.location) / "sktransfer"
    assert as_store(joblib.Memory(None)) is None


def test_a_flipped_bit_anywhere_gives_no_other_samples_features(tmp_path):
    digests = [str(i).encode() for i in range(40)]
    path = filled(tmp_path / "store", digests, rows(*range(40)))
    whole, missed = path.read_bytes(), 0
    rng = np.random.RandomState(0)
    positions = [*range(40), *rng.choice(len(whole), 160, replace=False)]
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randint(8)
        path.write_bytes(damaged)
        for i, value in enumerate(FeatureStore(tmp_path / "store").get("recipe", digests)):
            missed += value is None
            assert value is None or (value == i).all()
    assert missed >= len(positions)


def test_the_rows_of_another_key_count_as_absent(store):
    store.put("recipe", [b"a", b"b"], rows(1, 2))
    content = file_of(store).read_bytes()
    file_of(store).write_bytes(content[:-800] + content[-400:] + content[-800:-400])
    assert store.get("recipe", [b"a", b"b"]) == [None, None]


def test_keys_that_are_equal_in_their_first_half_are_different(tmp_path):
    blocks = BlockFolder(tmp_path / "blocks", None)
    blocks.put(np.array([[1, 2]], np.uint64), rows(1))
    missing, found = blocks.get(np.array([[1, 3], [1, 2]], np.uint64))
    assert missing is None and found[0] == 1


def test_files_of_other_programs_stay_as_they_are(store):
    store.path.mkdir(parents=True)
    others = [store.location / "features.sqlite", store.path / "my.rows", store.path / "notes"]
    for path in others:
        path.write_text("mine")
    store.put("recipe", [b"a"], rows(1))
    assert (len(store), store.nbytes) == (1, ROW)
    store.clear()
    assert [path.read_text() for path in others] == ["mine"] * 3


# where nothing can be written


@pytest.mark.parametrize("max_bytes", [None, 10 * ROW])
def test_a_store_that_cannot_be_written_is_read(max_bytes, tmp_path, make_read_only):
    FeatureStore(tmp_path / "store").put("recipe", [b"a"], rows(1))
    make_read_only(tmp_path / "store")
    store = FeatureStore(tmp_path / "store", max_bytes=max_bytes)
    assert store.get("recipe", [b"b"]) == [None]
    assert store.get("recipe", [b"a"])[0][0] == 1
    assert len(store) == 1
    with pytest.raises(OSError, match=r"Read-only|Permission denied"):
        store.put("recipe", [b"b"], rows(2))
    with pytest.warns(UserWarning, match=r"cannot be written to the store") as caught:
        assert not store.try_put("recipe", [b"b"], rows(2))
        assert not store.try_put("recipe", [b"b"], rows(2))
    assert [warning.category for warning in caught].count(UserWarning) == 1


def test_a_store_is_written_again_once_that_is_possible(tmp_path, make_read_only):
    folder = tmp_path / "store"
    FeatureStore(folder).put("recipe", [b"a"], rows(1))
    make_writable = make_read_only(folder)
    store = FeatureStore(folder)
    with pytest.warns(UserWarning, match=r"cannot be written to the store"):
        assert not store.try_put("recipe", [b"b"], rows(2))
    make_writable()
    assert store.try_put("recipe", [b"b"], rows(2))
    assert FeatureStore(folder).get("recipe", [b"b"])[0][0] == 2


def test_a_store_on_a_full_disk_is_read_and_says_that_nothing_is_added(small_disk):
    store = FeatureStore(small_disk / "store")
    store.put("recipe", [b"a"], rows(1))
    many = [i.to_bytes(4, "big") for i in range(500)]
    with pytest.warns(UserWarning, match="No space left") as caught:
        assert not store.try_put("recipe", many, np.ones((500, 200), np.float32))
        assert not store.try_put("recipe", many, np.ones((500, 200), np.float32))
    assert [warning.category for warning in caught].count(UserWarning) == 1
    assert store.get("recipe", [b"a", many[0]])[0][0] == 1
    assert len(store) == 1
    assert store.try_put("recipe", [b"b"], rows(2))
    assert len(list(store.path.iterdir())) == 2


def test_a_file_that_could_not_be_completed_is_removed(store):
    store.put("recipe", [b"a"], rows(1))

    def limited():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            store.put("recipe", [b"b"], np.ones((1, 1000), np.float32))
        assert len(list(store.path.iterdir())) == 1
        store.put("recipe", [b"c"], rows(3))
        resource.setrlimit(resource.RLIMIT_FSIZE, before)  # a measurement of coverage is written

    process = multiprocessing.get_context("fork").Process(target=limited)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert [v is None for v in store.get("recipe", [b"a", b"b", b"c"])] == [False, True, False]


# its parameters


@pytest.mark.parametrize("max_bytes", [-5, 0, True, 1.5, "1"])
def test_a_bound_that_is_no_number_of_bytes_is_refused(max_bytes, tmp_path):
    with pytest.raises(ValueError, match=f"max_bytes={max_bytes!r}: give a positive integer"):
        FeatureStore(tmp_path, max_bytes=max_bytes)


@pytest.mark.parametrize("location", [3, None, ""])
def test_a_location_that_is_no_path_is_refused(location):
    with pytest.raises(ValueError, match=f"location={location!r}: give the path of a folder"):
        FeatureStore(location)


def test_an_empty_path_is_no_memory():
    with pytest.raises(ValueError, match="memory='' is no folder"):
        as_store("")


def test_the_home_folder_is_meant_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for store in (as_store("~/store"), as_store(Path("~/store")), FeatureStore("~/store")):
        assert store.location == tmp_path / "home" / "store"


def test_an_error_of_the_disk_names_the_file(tmp_path):
    (tmp_path / "features.blocks").write_text("mine")
    store = FeatureStore(tmp_path)
    for use in (lambda: store.put("recipe", [b"a"], rows(1)), lambda: store.get("recipe", [b"a"])):
        with pytest.raises(OSError, match=r"features\.blocks"):
            use()


def test_a_place_is_the_same_wherever_the_process_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = FeatureStore("here")
    monkeypatch.chdir("/")
    store.put("recipe", [b"a"], rows(1))
    assert (tmp_path / "here").is_dir()


def test_the_path_of_a_file_is_refused(tmp_path):
    (tmp_path / "features.sqlite").write_bytes(b"")
    with pytest.raises(ValueError, match=r"features\.sqlite' is a file"):
        as_store(tmp_path / "features.sqlite")


def test_a_folder_that_cannot_be_read_is_a_store_without_entries(tmp_path, monkeypatch):
    def refused(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", "store")

    with monkeypatch.context() as patch:
        for name in ("listdir", "stat", "makedirs", "mkdir", "open"):
            patch.setattr(f"sktransfer.features.block_folder.os.{name}", refused)
        store = FeatureStore(tmp_path / "store")
        assert store.get("recipe", [b"1"]) == [None] and len(store) == 0
        with pytest.warns(UserWarning, match="cannot be written .* Permission denied"):
            assert not store.try_put("recipe", [b"1"], np.ones((1, 2), np.float32))
