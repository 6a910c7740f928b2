import numpy as np
import pytest
import torch

from graft.errors import CheckpointError, RecipeError
from graft.eval.encoding import collate, encode_blocks, encode_texts
from graft.eval.splits import Split


def make(texts, labels=None):
    return Split("train", "train", np.arange(10, 10 + len(texts)), tuple(texts), labels)


def test_pairs_share_the_length_and_keep_their_segments(tokenizer):
    encoded = encode_texts(make([("a b", "c"), ("a", "b c d")]), tokenizer, 16)
    assert [row.tolist() for row in encoded.input_ids] == [[2, 5, 6, 3, 7, 3], [2, 5, 3, 6, 7, 8, 3]]
    assert [row.tolist() for row in encoded.token_type_ids] == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1]]
    assert encoded.lengths.tolist() == [6, 7]
    assert encoded.units.tolist() == [1, 1]
    assert encoded.ids.tolist() == [10, 11]
    assert encoded.truncated == 0


def test_truncated_examples_are_counted_whatever_the_tokenizer_was_saved_with(tokenizer):
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    encoded = encode_texts(make([("a b c d e",), ("a b",), ("a b c",)]), tokenizer, 5)
    assert [row.tolist() for row in encoded.input_ids] == [[2, 5, 6, 7, 3], [2, 5, 6, 3], [2, 5, 6, 7, 3]]
    assert encoded.truncated == 1


def test_a_batch_is_padded_on_the_right_to_its_longest_row(tokenizer):
    labels = np.array([0.5, 1.5, 2.5], dtype=np.float32)
    encoded = encode_texts(make([("a",), ("a b c d",), ("a b",)], labels), tokenizer, 16)
    batch = collate(encoded, [2, 0])
    assert batch.inputs["input_ids"].tolist() == [[2, 5, 6, 3], [2, 5, 3, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch.inputs["token_type_ids"].tolist() == [[0] * 4] * 2
    assert (batch.labels.tolist(), batch.ids.tolist(), batch.units.tolist()) == ([2.5, 0.5], [12, 10], [1, 1])
    assert len(batch) == 2
    assert all(tensor.dtype == torch.int64 for tensor in batch.inputs.values())
    moved = batch.to("meta")
    assert {moved.inputs["input_ids"].device.type, moved.labels.device.type, moved.ids.device.type} == {"meta"}


def test_a_decoder_without_special_tokens_still_reads_something_of_an_empty_text(decoder_tokenizer):
    encoded = encode_texts(make([("",), ("a b",)]), decoder_tokenizer, 16)
    assert [row.tolist() for row in encoded.input_ids] == [[4], [5, 6]]
    assert encoded.token_type_ids is None
    assert "token_type_ids" not in collate(encoded, [0, 1]).inputs


def test_documents_are_joined_by_the_end_token_and_cut_into_blocks(decoder_tokenizer):
    encoded = encode_blocks(make([("a b c",), ("d e",)]), decoder_tokenizer, 5)
    stream = [5, 6, 7, 4, 8, 9, 4]
    assert [row.tolist() for row in encoded.input_ids] == [stream[:5], stream[5:]]
    assert encoded.units.tolist() == [4, 1]
    assert encoded.ids.tolist() == [0, 1]
    assert encoded.labels is None


def test_a_last_block_that_predicts_nothing_is_dropped(decoder_tokenizer):
    encoded = encode_blocks(make([("a b c d",), ("e f a",)]), decoder_tokenizer, 4)
    assert encoded.lengths.tolist() == [4, 4]
    assert sum(encoded.units.tolist()) == 6


def test_an_encoder_separates_documents_by_its_own_separator(tokenizer):
    assert encode_blocks(make([("a b",), ("c",)]), tokenizer, 16).input_ids[0].tolist() == [5, 6, 3, 7, 3]


def test_the_fingerprint_follows_the_content(tokenizer):
    def of(*texts, length=16):
        return encode_texts(make(texts, np.zeros(len(texts), dtype=np.int64)), tokenizer, length).fingerprint

    assert of(("a b",), ("c",)) == of(("a b",), ("c",))
    assert len({of(("a b",), ("c",)), of(("a",), ("b c",)), of(("a b c",)), of(("a b c",), length=4)}) == 4


def test_what_the_checkpoint_cannot_do_is_said(tokenizer, decoder_tokenizer):
    with pytest.raises(RecipeError, match=r"max_length: 65 tokens; the checkpoint takes 64"):
        encode_texts(make([("a",)]), tokenizer, 65)
    decoder_tokenizer.pad_token = None
    with pytest.raises(CheckpointError, match="no padding token"):
        encode_texts(make([("a",)]), decoder_tokenizer, 8)
    decoder_tokenizer.pad_token = "[PAD]"
    decoder_tokenizer.eos_token = None
    with pytest.raises(CheckpointError, match="no end-of-text token"):
        encode_blocks(make([("a",)]), decoder_tokenizer, 8)
