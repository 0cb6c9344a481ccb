import pytest

from sktransfer.backbones.words.tokens import split_chunk
from sktransfer.backbones.words.vectors import Vocabulary

KNOWN = """
the do n't ca wo it 's 've 'd they . , ... ! !! ( ) " u.s. u.s no no. good made well up
self-conscious '90s $ dr. smith - -- and foo . @ e-mail 5 ####,### i o'clock n't 'm can did
""".split()


# By frequency, as files are: "no" before "no.", "u.s." before "u.s".
FIND = Vocabulary.from_words(KNOWN).find_form


@pytest.mark.parametrize(
    ("chunk", "tokens"),
    [
        ("good", "good"),
        ("GOOD!", "GOOD !"),
        ("good!!", "good !!"),
        ("good!!!", "good ! ! !"),
        ("good…", "good"),
        ("don't", "do n't"),
        ("Don’t", "Do n't"),
        ("can't.", "ca n't ."),
        ("CAN'T", "CA N'T"),
        ("it's,", "it 's ,"),
        ("they'd've", "they 'd 've"),
        ("zorro's", "zorro 's"),
        ("rock'n'roll", "rock n roll"),
        ("o'clock", "o'clock"),
        ("self-conscious", "self-conscious"),
        ("(self-conscious)", "( self-conscious )"),
        ("well-made-up", "well made up"),
        ("u.s.", "u.s."),
        ("U.S.,", "U.S. ,"),
        ("U.S.-made", "U.S. made"),
        ("no.", "no ."),
        ('"no."', '" no . "'),
        ("Dr.", "Dr."),
        ("the...", "the ..."),
        ("...", "..."),
        ("....", ". . . ."),
        ("--", "--"),
        ("'90s", "'90s"),
        ("('90s)", "( '90s )"),
        ("$5", "$ 5"),
        ("123,456", "123,456"),
        ("1,234.5", "1,234.5"),
        ("foo/good", "foo good"),
        ("foo@good", "foo @ good"),
        ("good,no", "good , no"),
        ("_good_", "good"),
        ("self_conscious", "self conscious"),
        ("xyzzy", "xyzzy"),
        ("😀", ""),
        ("日本語", "日本語"),
    ],
)
def test_chunks_are_split_by_the_vocabulary(chunk, tokens):
    assert split_chunk(chunk, FIND) == tokens.split()


def test_contractions_with_unknown_parts_are_not_split():
    find = Vocabulary.from_words(["don't", "can", "t"]).find_form
    assert split_chunk("don't", find) == ["don't"]
    assert split_chunk("can't", find) == ["can", "t"]


@pytest.mark.slow
def test_thousands_of_contractions_need_no_recursion():
    assert split_chunk("x" + "'s" * 1500, FIND) == ["x", *["'s"] * 1500]
    assert split_chunk("zorro" + "n't" * 1500 + "!", FIND) == ["zorro", *["n't"] * 1500, "!"]
