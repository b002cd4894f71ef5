"""A byte-level BPE tokenizer: trained, saved, loaded, hashed."""

from __future__ import annotations

import re
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


def bytes_of_token(tokenizer: Tokenizer, token_id: int) -> bytes:
    """The bytes of text that a token stands for, half characters too; a special token stands for its own name."""
    text: str = tokenizer.decode([token_id], skip_special_tokens=False)
    token = tokenizer.id_to_token(token_id) or ""
    if REPLACEMENT in text and (byte := re.fullmatch(r"<0x([0-9A-F]{2})>", token)):
        return bytes.fromhex(byte[1])  # the byte fallback of SentencePiece
    if REPLACEMENT in text and all(character in BYTE_OF_CHARACTER for character in token):
        return bytes(BYTE_OF_CHARACTER[character] for character in token)
    return text.encode()


def _byte_level_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each byte (Radford et al. 2019, GPT-2), turned round."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + rank): byte for rank, byte in enumerate(hidden)}


REPLACEMENT = "\ufffd"
"""What a decoder writes for bytes that are no character; an open character at the end shows as exactly one."""
BYTE_OF_CHARACTER = _byte_level_alphabet()
