"""CLIP's byte-level BPE tokenizer, and ViCLIP's caption cleaning."""

import gzip
import html
import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from heapq import heapify, heappop, heappush
from importlib import resources
from itertools import pairwise, product

import ftfy
import torch
from jaxtyping import Int64
from torch import Tensor

from mnprobe.core.errors import ConfigError

__all__ = ["END", "START", "Tokenizer", "clean_caption"]

START = 49406  # id of the start token
END = 49407  # id of the end token, the largest id

_MARKERS = {"<|startoftext|>": START, "<|endoftext|>": END}
_YPOGEGRAMMENI = "\u0345"  # a combining mark that equals a letter when case is ignored
# CLIP's own pattern, for texts in which a character outside ASCII is replaced by one of its kind (`_in_ascii`).
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")
_PIECES_AND_MARKERS = re.compile("|".join([*map(re.escape, _MARKERS), _PIECES.pattern]))
_WORD_END = "</w>"  # as the file of merges writes the end of a word
_GONE = -1  # in place of an id that was merged into the one before it
_KINDS = {"L": "x", "N": "0", "Z": " "}  # Unicode's categories of letters, numbers and spaces, as in the pattern
_DELETED = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")


class Tokenizer:
    """Tokenizer from texts to rows of token ids, as CLIP and ViCLIP have it.

    Texts are repaired (ftfy), freed of html entities (twice), stripped, their white space squeezed, lower-cased, and
    cut into byte-pair ids. A row is start + ids + end, cut to `context_length` with the end id in the last place, then
    zeros.

    The official code turns the spellings `<|startoftext|>` and `<|endoftext|>` inside a text into the special ids, so
    that a text can end itself early. Here they are plain characters unless `special_markers` is set. The character
    U+0345 ends a piece and vanishes, as in the official code.

    Args:
        context_length: ids per row: 32 for ViCLIP, 77 for CLIP.
        special_markers: read the spelled markers as the official code does; not for untrusted texts.
    Raises:
        ConfigError: if `context_length` is below 2.

    >>> Tokenizer(8).tokenize(["stack 2 rose blocks"])
    tensor([[49406, 11257,   273,  3568, 10113, 49407,     0,     0]])
    """

    def __init__(self, context_length: int = 32, *, special_markers: bool = False) -> None:
        if context_length < 2:
            raise ConfigError(f"context_length must be at least 2 (start and end token), got {context_length!r}")
        self.context_length = context_length
        self.special_markers = special_markers
        self._pattern = _PIECES_AND_MARKERS if special_markers else _PIECES

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without start and end token, of any length."""
        text = _clean(text)
        pieces = (text[match.start() : match.end()] for match in self._pattern.finditer(_in_ascii(text)))
        return [number for piece in pieces for number in self._piece(piece)]

    def tokenize(self, texts: Sequence[str]) -> Int64[Tensor, "texts context"]:
        """One row of `context_length` ids per text."""
        if isinstance(texts, str):
            raise ConfigError(f"tokenize takes a list of texts, got the single text {texts!r}; put it into a list")
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [START, *self.encode(text)[: self.context_length - 2], END]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    __call__ = tokenize

    def _piece(self, piece: str) -> Sequence[int]:
        return [_MARKERS[piece]] if self.special_markers and piece in _MARKERS else _merged(piece)


def clean_caption(text: str) -> str:
    """Clean a caption as ViCLIP's training and evaluation loaders do before the tokenizer.

    Lower case; `, . ' ! ? " ( ) * # : ; ~` deleted; `-` and `/` become spaces; `<person>` becomes `person`; white space
    squeezed. Use it at fine-tuning and at test time alike, or at neither.

    >>> clean_caption("Put the block in the TOP-drawer, please!")
    'put the block in the top drawer please'
    """
    text = text.lower().translate(_DELETED).replace("<person>", "person")
    return re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")


def _clean(text: str) -> str:
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text.strip()).strip().lower().replace(_YPOGEGRAMMENI, " ")


def _in_ascii(text: str) -> str:
    return "".join(c if c.isascii() else _KINDS.get(unicodedata.category(c)[0], "!") for c in text)


@cache
def _vocabulary() -> tuple[list[int], dict[tuple[int, int], int]]:
    """The id of each of the 256 bytes, and the id that a pair of ids merges into; a smaller id merges first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    order = [*printable, *(byte for byte in range(256) if byte not in printable)]
    signs = [*map(chr, printable), *map(chr, range(256, 512 - len(printable)))]  # how the file writes the bytes
    ids = {sign + end: number for number, (end, sign) in enumerate(product(("", _WORD_END), signs))}
    pairs: dict[tuple[int, int], int] = {}
    lines = gzip.decompress(resources.files(__package__).joinpath("merges.txt.gz").read_bytes()).decode().splitlines()
    for number, line in enumerate(lines, start=len(ids)):
        left, right = line.split(" ")
        pairs[ids[left], ids[right]] = ids[left + right] = number
    return [order.index(byte) for byte in range(256)], pairs


@lru_cache(maxsize=65_536)
def _merged(piece: str) -> tuple[int, ...]:
    """The ids of one piece: its bytes, of which the last ends the word, merged pair by pair."""
    bytes_, pairs = _vocabulary()
    ids = [bytes_[byte] for byte in piece.encode()]
    ids[-1] += 256
    ids.append(_GONE)  # the place behind the last one, and before the first
    before, after = list(range(-1, len(ids) - 1)), [*range(1, len(ids)), -1]
    merges = [(pairs[pair], place) for place, pair in enumerate(pairwise(ids)) if pair in pairs]
    heapify(merges)
    while merges:
        number, left = heappop(merges)
        right = after[left]
        if pairs.get((ids[left], ids[right])) != number:
            continue  # one of both has merged with its other neighbor
        ids[left], ids[right] = number, _GONE
        after[left] = after[right]
        before[after[left]] = left
        for place in (before[left], left):
            following = pairs.get((ids[place], ids[after[place]]))
            if following is not None:
                heappush(merges, (following, place))
    return tuple(number for number in ids if number != _GONE)
