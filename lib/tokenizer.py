"""A byte-level BPE tokenizer: trained, saved, loaded, hashed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lib.files import sha256_of_file, staged

END_OF_TEXT = "<|endoftext|>"
DEFAULT_VOCABULARY_SIZE = 8192
SMALLEST_VOCABULARY_SIZE = 257


def train_byte_level_bpe(texts: Iterable[str], vocabulary_size: int = DEFAULT_VOCABULARY_SIZE) -> Tokenizer:
    """Train byte-level BPE (Sennrich et al. 2016, Radford et al. 2019): every text is encodable and comes back equal.

    Token 0 is `<|endoftext|>`, which ends each document. Raises ValueError where not even all bytes have room.
    """
    if vocabulary_size < SMALLEST_VOCABULARY_SIZE:
        raise ValueError(f"a byte-level vocabulary needs at least {SMALLEST_VOCABULARY_SIZE} entries")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True  # "<|endoftext|>" in a text is text, not an end
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> str:
    """Write `tokenizer.json` whole; return its SHA-256."""
    with staged(path) as temporary:
        tokenizer.save(str(temporary))
    return sha256_of_file(path)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read `tokenizer.json`. Raises ValueError where it is not one, in words."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path.name} is not a tokenizer: {error}") from error
    tokenizer.encode_special_tokens = True  # it is not saved in the file
    return tokenizer


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """The id of the token that ends a document. Raises ValueError where the tokenizer has none."""
    token_id = tokenizer.token_to_id(END_OF_TEXT)
    if token_id is None:
        raise ValueError(f"the tokenizer has no {END_OF_TEXT} token")
    return int(token_id)


def bytes_of_tokens(tokenizer: Tokenizer) -> list[int]:
    """How many bytes of text each token stands for, by id; special tokens stand for none. Byte-level BPE only."""
    special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    lengths = [0] * tokenizer.get_vocab_size()
    for token, token_id in tokenizer.get_vocab().items():
        lengths[token_id] = 0 if token_id in special else len(token)  # one printable character stands for each byte
    return lengths
