"""CLIP's byte-level BPE tokenizer, and ViCLIP's caption cleaning."""

import html
import re
from collections.abc import Iterator, Sequence

import ftfy
import instant_clip_tokenizer
import torch
from jaxtyping import Int64
from torch import Tensor

from mnprobe.core.errors import ConfigError

__all__ = ["END", "START", "Tokenizer", "clean_caption"]

START = 49406  # id of the start token
END = 49407  # id of the end token, the largest id

_MARKERS = {"<|startoftext|>": START, "<|endoftext|>": END}
_YPOGEGRAMMENI = "\u0345"  # a combining mark that equals a letter when case is ignored
# Where CLIP's own pattern starts a new piece, as far as finding its markers needs it: a marker inside a run of other
# signs ("!!<|endoftext|>") is not seen as one.
_PIECES = re.compile(
    r"(?P<marker><\|startoftext\|>|<\|endoftext\|>)|'(?:s|t|re|ve|m|ll|d)|[^\W_]|\s|(?:[^\s\w]|_)+", re.IGNORECASE
)
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
        self._bpe = instant_clip_tokenizer.Tokenizer()

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without start and end token, of any length."""
        text = _clean(text)
        if not self.special_markers:
            return self._plain(text)
        return [number for piece in _split_markers(text) for number in self._piece(piece)]

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

    def _piece(self, piece: str) -> list[int]:
        return [_MARKERS[piece]] if piece in _MARKERS else self._plain(piece)

    def _plain(self, text: str) -> list[int]:
        return [int(number) for number in self._bpe.encode(text)]


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


def _split_markers(text: str) -> Iterator[str]:
    """Yield the text in order, each marker that CLIP's pattern would find as a piece of its own."""
    start = 0
    for match in _PIECES.finditer(text):
        if match["marker"]:
            yield text[start : match.start()]
            yield match["marker"]
            start = match.end()
    yield text[start:]
