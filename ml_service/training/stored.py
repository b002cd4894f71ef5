"""What a bundle keeps of a transformers model: its architecture and its weights; and the model that it then is."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from transformers import PretrainedConfig, PreTrainedModel

from ml_service.common.bundle import Architecture
from ml_service.common.errors import BundleRefused
from ml_service.common.stored_weights import Weights, weights_of
from ml_service.training.families import head_size_of

_NOT_OF_THE_NETWORK = ("_name_or_path", "transformers_version", "architectures", "dtype")


def architecture_of(config: PretrainedConfig, without_graph: str = "") -> Architecture:
    """The runtimes' view of a configuration. Raises BundleRefused where it does not say how a text ends."""
    end_ids = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if not end_ids or any(not isinstance(i, int) or not 0 <= i < config.vocab_size for i in end_ids):
        raise BundleRefused(f"the configuration names no token that ends a text: eos_token_id is {config.eos_token_id}")
    if not getattr(config, "max_position_embeddings", 0):
        raise BundleRefused("the configuration names no context length: it has no max_position_embeddings")
    facts = {name: value for name, value in config.to_dict().items() if name not in _NOT_OF_THE_NETWORK}
    return Architecture(
        model_type=config.model_type,
        vocabulary_size=config.vocab_size,
        context_length=config.max_position_embeddings,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_value_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_size=head_size_of(config),
        tied_embeddings=config.tie_word_embeddings,
        end_of_text_id=end_ids[0],
        further_end_ids=tuple(end_ids[1:]),
        without_graph=without_graph,
        transformers=facts,
    )


def network_weights(model: PreTrainedModel) -> Weights:
    """All weights in fp32 under transformers' names; one that is tied to another is there once."""
    weights: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        weights.setdefault(tensor.data_ptr(), (name, tensor))
    return {name: tensor.detach().to(torch.float32).numpy() for name, tensor in weights.values()}


def as_served(model: PreTrainedModel, graph: onnx.ModelProto) -> PreTrainedModel:
    """The model with the weights that its graph stores: in 8 bit they have gone to codes and back."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights_of(tensors, {name: p.shape for name, p in parameters.items()}):
            parameters[name].copy_(torch.from_numpy(np.array(weight)))
    return model
