# SPDX-License-Identifier: Apache-2.0
"""Tokenizers for synthetic checkpoints, with the ids and special tokens of the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vla_ros.openvla.processor import SPACE_TOKEN_ID

# Words of one token each, so that prompts are about as long as with the real tokenizers.
_WORDS = """
In: What action should the robot take to A chat between curious user and an artificial intelligence
assistant. The assistant gives helpful, detailed, polite answers user's questions. USER: ASSISTANT:
pick up put place push pull open close lift move turn on in into left right front of behind red
green blue yellow small big cup bowl spoon drawer towel block plate
"""
_QWEN_WORDS = """
system You are Qwen, created by Alibaba Cloud. You are a helpful assistant. user What assistant
"""
_QWEN_SPECIAL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
_QWEN_ADDED = 19  # further tokens behind these


def tokenizer_of(config: Mapping[str, Any], extra: int = 0) -> Tokenizer:
    """Return a tokenizer for the language model of a config.json.

    :param extra: tokens that are added to Qwen's, for actions.
    """
    text_config = config['text_config']
    if text_config['model_type'] == 'qwen2':
        return _qwen_tokenizer(text_config['eos_token_id'], extra)
    return _llama_tokenizer()


def _llama_tokenizer() -> Tokenizer:
    """Return a byte-fallback BPE with Llama's special ids and its single space at 29871."""
    pieces = ['<unk>', '<s>', '</s>', *(f'<0x{byte:02X}>' for byte in range(256))]
    pieces += [chr(code) for code in range(33, 127)]
    merges = []
    for word in _WORDS.split():
        for end, character in enumerate(word):
            prefix, longer = '▁' + word[:end], '▁' + word[: end + 1]
            if longer not in pieces:
                pieces.append(longer)
                merges.append((prefix, character))
    pieces += [f'<unused{index}>' for index in range(len(pieces), SPACE_TOKEN_ID)]
    pieces.append('▁')
    pieces += [f'<unused{index}>' for index in range(len(pieces), 32000)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token='<unk>', fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single='<s> $A', special_tokens=[('<s>', 1)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(['<unk>', '<s>', '</s>', '<PAD>'])
    return tokenizer


def _qwen_tokenizer(base_size: int, extra: int) -> Tokenizer:
    """Return a byte-level BPE; its special tokens come behind ``base_size`` others.

    :param extra: tokens behind these.
    """
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = []
    words = [word.rstrip(".,:?'") for word in (_WORDS + _QWEN_WORDS).split()]
    # Words behind a space first: earlier merges come first, and would take letters out of others.
    for beginning in ('\u0120', ''):  # how a space is written
        for word in words:
            text = beginning + word
            for end in range(1, len(text)):
                if text[: end + 1] not in pieces:
                    pieces.append(text[: end + 1])
                    merges.append((text[:end], text[end]))
    pieces = pieces[:base_size]
    merges = [pair for pair in merges if ''.join(pair) in pieces]
    pieces += [f'<unused{index}>' for index in range(len(pieces), base_size)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.normalizer = normalizers.NFC()
    split = Regex(r'[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+')
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_QWEN_SPECIAL)
    tokenizer.add_tokens([f'<|synthetic_{index}|>' for index in range(_QWEN_ADDED)])
    tokenizer.add_tokens([f'<|extra_{index}|>' for index in range(extra)])
    return tokenizer
