import pytest

from sktransfer.backbones.words.vocabulary import Vocabulary


def test_every_word_is_found_and_no_other():
    words = [f"wörd {i}" for i in range(2000)] + ["", "\ud800", "a\0b"]
    vocabulary = Vocabulary.from_words(words)
    assert [vocabulary.find(word) for word in words] == list(range(1, len(words) + 1))
    assert [vocabulary.word(i + 1) for i in range(len(words))] == words
    assert not any(map(vocabulary.find, ["wörd", "wörd 2000", "Wörd 1", "b"]))
    for id in (0, len(words) + 1):
        with pytest.raises(IndexError):
            vocabulary.word(id)


def test_words_of_one_hash_are_told_apart_by_their_letters(monkeypatch):
    monkeypatch.setattr("xxhash.xxh3_64_intdigest", lambda key: 7)
    vocabulary = Vocabulary.from_words(["a", "b", "c", "b"])
    assert [vocabulary.find(word) for word in "abcd"] == [1, 2, 3, 0]


def test_forms_under_which_a_word_is_looked_up():
    vocabulary = Vocabulary.from_words(["Paris", "paris", "####", "7"])
    tries = ["Paris", "PARIS", "1999", "7", "8", "199"]
    assert [vocabulary.find_form(word) for word in tries] == [1, 2, 3, 4, 0, 0]
