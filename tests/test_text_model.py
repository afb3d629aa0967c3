"""The names of CLIP text encoders, against those that transformers' modules have and released files hold."""

import pytest
import transformers

from tenshot.families import text_model

TINY = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 9}


@pytest.mark.parametrize("kind", [transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection])
def test_names_of_transformers_come_back_and_are_the_same_whichever_version_wrote_them(kind):
    names = list(kind(transformers.CLIPTextConfig(**TINY)).state_dict())
    bare = [text_model.bare(name) for name in names]
    assert len(set(bare)) == len(names)
    stored = [text_model.stored(name) for name in bare]
    assert stored == [text_model.stored(name) for name in stored]
    assert [text_model.bare(name) for name in stored] == bare


def test_files_have_the_text_models_prefix_and_none_before_the_projection():
    """As stabilityai/stable-diffusion-xl-base-1.0's text_encoder_2 is released."""
    names = ["embeddings.token_embedding.weight", "final_layer_norm.bias", "text_projection.weight"]
    expected = ["text_model.embeddings.token_embedding.weight", "text_model.final_layer_norm.bias", names[2]]
    assert [text_model.stored(name) for name in names] == expected
    assert [text_model.stored(name) for name in expected] == expected
