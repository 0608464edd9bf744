"""Parts of CLIP that ViCLIP and ARP use: blocks, text encoder, tokenizer.

Source: Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision (arXiv 2103.00020).
"""

from mnprobe.models.clip.blocks import MLP, ResidualBlock, SelfAttention, Transformer, quick_gelu
from mnprobe.models.clip.language import (
    LanguageConfig,
    LanguageEncoder,
    PolicyLanguage,
    WordVectors,
    load_language_encoder,
    random_language_encoder,
)
from mnprobe.models.clip.text import TextEncoder
from mnprobe.models.clip.tokenizer import END, START, Tokenizer, clean_caption

__all__ = [
    "END",
    "MLP",
    "START",
    "LanguageConfig",
    "LanguageEncoder",
    "PolicyLanguage",
    "ResidualBlock",
    "SelfAttention",
    "TextEncoder",
    "Tokenizer",
    "Transformer",
    "WordVectors",
    "clean_caption",
    "load_language_encoder",
    "quick_gelu",
    "random_language_encoder",
]
