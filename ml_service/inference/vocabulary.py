"""A tokenizer and what is computed from it once; models that have the same one share it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from lib.detokenizer import Detokenizer
from lib.tokenizer import bytes_of_tokens, load_tokenizer
from ml_service.common.errors import BundleRefused


@dataclass(frozen=True)
class Vocabulary:
    """To open one of 49,000 tokens takes a quarter of a second in which no other Python thread gets a turn."""

    sha256: str
    """Of the file."""
    tokenizer: Tokenizer
    detokenizer: Detokenizer
    longest_token_bytes: int


def load_vocabulary(path: Path, sha256: str) -> Vocabulary:
    """Raises BundleRefused, in words, where the file is no tokenizer."""
    try:
        tokenizer = load_tokenizer(path)
    except ValueError as error:
        raise BundleRefused(str(error)) from error
    return Vocabulary(sha256, tokenizer, Detokenizer(tokenizer), max(bytes_of_tokens(tokenizer)))
