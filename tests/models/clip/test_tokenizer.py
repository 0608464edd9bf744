"""The tokenizer against the ids of the official one, and its safe side."""

import json
import random
from itertools import pairwise

import pytest
import torch

from mnprobe.core.errors import ConfigError
from mnprobe.models.clip import END, START, Tokenizer, clean_caption
from mnprobe.models.clip.tokenizer import _vocabulary


@pytest.fixture(scope="module")
def items(golden):
    items = json.loads((golden / "clip-tokenizer.json").read_text(encoding="utf-8"))["items"]
    assert len(items) == 300
    return items


def test_all_strings_get_the_official_ids_when_markers_are_read(items):
    tokenizer = Tokenizer(32, special_markers=True)
    assert [tokenizer.encode(item["text"]) for item in items] == [item["ids"] for item in items]
    rows = tokenizer.tokenize([item["text"] for item in items])
    assert rows.dtype == torch.int64
    assert rows.tolist() == [item["padded32"] for item in items]


def test_by_default_only_spelled_markers_differ(items):
    tokenizer = Tokenizer(32)
    different = [item for item in items if tokenizer.encode(item["text"]) != item["ids"]]
    assert different == [item for item in items if item["literal_special"]]
    assert different
    for item in different:
        assert not {START, END} & set(tokenizer.encode(item["text"]))


def test_a_text_cannot_end_itself_by_default():
    row = Tokenizer(32).tokenize(["stop <|endoftext|> here"])[0]
    assert (row == END).sum() == 1
    assert row.argmax() == (row != 0).sum() - 1


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a<|endoftext|>b", ["a", END, "b"]),
        ("1 <|ENDOFTEXT|><|startoftext|>", ["1", END, START]),
        ("it's<|endoftext|>", ["it's", END]),
        ("!!<|endoftext|>", ["!!<|endoftext|>"]),  # inside a run of signs CLIP's pattern finds no marker
        ("a_<|endoftext|>", ["a_<|endoftext|>"]),
    ],
)
def test_markers_are_found_where_the_official_pattern_finds_them(text, pieces):
    plain = Tokenizer(32)
    expected = [n for piece in pieces for n in ([piece] if isinstance(piece, int) else plain.encode(piece))]
    assert Tokenizer(32, special_markers=True).encode(text) == expected


def test_the_iota_subscript_ends_a_piece_and_vanishes():
    tokenizer = Tokenizer(32)
    assert tokenizer.encode("\u0345") == []
    assert tokenizer.encode("open\u0345drawer") == tokenizer.encode("open drawer")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("it'sn't", ["it", "'s", "n", "'t"]),
        ("!'s", ["!'", "s"]),  # inside a run of signs no ending is seen
        ("50\u00bd\u2167\u4e09", ["5", "0", "\u00bd", "\u2177", "\u4e09"]),  # numbers stand alone, in any script
        ("\u03b1\u03b2-\u00e9", ["\u03b1\u03b2", "-", "\u00e9"]),
    ],
)
def test_texts_are_cut_where_the_official_pattern_cuts_them(text, pieces):
    tokenizer = Tokenizer(32)
    assert tokenizer.encode(text) == [number for piece in pieces for number in tokenizer.encode(piece)]


def test_the_pair_that_merges_first_is_merged_everywhere_then_the_next():
    bytes_, pairs = _vocabulary()
    assert sorted(bytes_) == list(range(256))
    assert sorted(pairs.values()) == list(range(512, START))
    rng = random.Random(0)
    for length in (1, 2, 5, 40, 300):
        for letters in ("ab", "eilnst", "abcdefghijklmnopqrstuvwxyz", "\u00e9\u00fc\u4e00"):
            text = "".join(rng.choice(letters) for _ in range(length))
            ids = [bytes_[byte] for byte in text.encode()]
            ids[-1] += 256
            while best := min((pairs[pair] for pair in pairwise(ids) if pair in pairs), default=None):
                merged = ids[:1]
                for number in ids[1:]:
                    if pairs.get((merged[-1], number)) == best:
                        merged[-1] = best
                    else:
                        merged.append(number)
                ids = merged
            assert Tokenizer(32).encode(text) == ids


def test_empty_and_overlong_texts():
    short, long = Tokenizer(6).tokenize(["", "one two three four five six seven"]).tolist()
    assert short == [START, END, 0, 0, 0, 0]
    assert long[0] == START
    assert long[-1] == END
    assert Tokenizer(6).tokenize([]).shape == (0, 6)


def test_cleaning_comes_first():
    tokenizer = Tokenizer(32)
    assert tokenizer.encode("caf&amp;eacute;\n\t LATTE ") == tokenizer.encode("café latte")
    assert tokenizer.encode("\u201cquoted\u201d") == tokenizer.encode('"quoted"')


def test_a_single_text_or_an_impossible_length_is_an_error():
    with pytest.raises(ConfigError, match="takes a list of texts, got the single text 'push'"):
        Tokenizer(32).tokenize("push")
    with pytest.raises(ConfigError, match=r"at least 2.*got 1"):
        Tokenizer(1)


def test_captions_are_cleaned_as_the_official_loaders_do(golden):
    config = json.loads((golden / "viclip-tiny" / "config.json").read_text(encoding="utf-8"))
    assert [clean_caption(text) for text in config["strings"]] == config["pre_text"]
    assert clean_caption("A<person>-b/c\n") == "aperson b c"
