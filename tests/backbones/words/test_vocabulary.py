import pytest

from sktransfer.backbones.words.vectors import Vocabulary


def test_only_words_of_the_vocabulary_are_found():
    words = [f"wörd {i}" for i in range(2000)] + ["", "\ud800", "a\0b"]
    vocabulary = Vocabulary.from_words(words)
    assert [vocabulary.find(word) for word in words] == list(range(1, len(words) + 1))
    assert [vocabulary.word(i + 1) for i in range(len(words))] == words
    assert not any(map(vocabulary.find, ["wörd", "wörd 2000", "Wörd 1", "b"]))
    for id in (0, len(words) + 1):
        with pytest.raises(IndexError):
            vocabulary.word(id)


def test_words_with_equal_hashes_are_compared(monkeypatch):
    monkeypatch.setattr("xxhash.xxh3_64_intdigest", lambda key: 7)
    vocabulary = Vocabulary.from_words(["a", "b", "c", "b"])
    assert [vocabulary.find(word) for word in "abcd"] == [1, 2, 3, 0]


def test_words_are_looked_up_in_lower_case_and_with_digit_signs():
    vocabulary = Vocabulary.from_words(["Paris", "paris", "####", "7"])
    tries = ["Paris", "PARIS", "1999", "7", "8", "199"]
    assert [vocabulary.find_form(word) for word in tries] == [1, 2, 3, 4, 0, 0]
