"""A Hugging Face `config.json` as the model section of a spec, and back.

    from_hf_config({"model_type": "llama", "hidden_size": 4096, …}) -> {"hidden_size": 4096, "attention": {…}, …}
    to_hf_config(model) -> {"model_type": "llama", …}

Reading rejects what it does not understand. Writing tries the types in turn and keeps the first whose config, read back,
is the same model: a feature that a type cannot state is therefore never lost on the way out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .hf.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from .hf.experts import GPT_OSS, MINIMAX_M2, MIXTRAL, OLMOE, QWEN2_MOE, QWEN3_MOE
from .hf.falcon_bloom_mpt import BLOOM, FALCON, MPT
from .hf.fields import HfType, UnsupportedConfig, Values, get_path, set_path
from .hf.gemma import GEMMA, GEMMA2, GEMMA3
from .hf.gpt_like import GPT2, GPT_BIGCODE, GPT_NEOX, GPTJ, OPT, PHI, STARCODER2
from .hf.llama_like import GLM, GRANITE, LLAMA, MISTRAL, NEMOTRON, PHI3, QWEN2, QWEN3, STABLELM
from .hf.parts import attention_kind, expert_flags
from .hf.remote import BAICHUAN, CHATGLM, INTERNLM, INTERNLM2, MINICPM, QWEN

if TYPE_CHECKING:
    from .model import Model

__all__ = ["HF_TYPES", "UnsupportedConfig", "from_hf_config", "stored_format", "to_hf_config"]

HF_TYPES: tuple[HfType, ...] = (
    # the order in which writing tries them: the most widely read type first
    *(LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA2, GEMMA3, GPT2, PHI3, GLM, STABLELM, GRANITE, NEMOTRON),
    *(MIXTRAL, QWEN2_MOE, QWEN3_MOE, OLMOE, GPT_OSS, MINIMAX_M2, DEEPSEEK_V3, DEEPSEEK_V2),
    *(GPTJ, GPT_NEOX, PHI, FALCON, BLOOM, MPT, OPT, GPT_BIGCODE, STARCODER2),
    *(INTERNLM, INTERNLM2, BAICHUAN, QWEN, CHATGLM, MINICPM),
)

MAX_LAYERS = 10_000

_BY_NAME = {name: hf_type for hf_type in HF_TYPES for name in (hf_type.model_type, *hf_type.reads_as)}


def from_hf_config(config: Mapping[str, Any]) -> Values:
    """The model section that a parsed config.json describes; raises UnsupportedConfig for what cannot be expressed.

    Of a multimodal Gemma 3 the text model is taken. How the weights are stored is left to the importer, see
    `stored_format`.
    """
    model_type = config.get("model_type")
    if model_type == "gemma3" and isinstance(config.get("text_config"), Mapping):
        return from_hf_config({**config["text_config"], "model_type": "gemma3_text"})
    if not isinstance(model_type, str) or model_type not in _BY_NAME:
        known = ", ".join(sorted(_BY_NAME))
        raise UnsupportedConfig("model_type", f"{model_type!r} is none of the types that llmc reads: {known}")
    _check_num_layers(config)
    try:
        return _BY_NAME[model_type].read(config)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise UnsupportedConfig(
            "model_type", f"a {model_type} config with a value of the wrong kind: {error}"
        ) from error


def _check_num_layers(config: Mapping[str, Any]) -> None:
    """Lists of layers are built while reading, so their number is looked at first: a config is untrusted text."""
    for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        count = config.get(key)
        if count is not None and not (type(count) is int and 0 < count <= MAX_LAYERS):
            raise UnsupportedConfig(key, f"{count!r} is not between 1 and {MAX_LAYERS:,}")


def stored_format(config: Mapping[str, Any]) -> str | None:
    """The quantisation that the checkpoint's weights are stored in (fp8, mxfp4, gptq, …), or None for plain tensors."""
    quantization = config.get("quantization_config")
    return str(quantization.get("quant_method", "unknown")) if isinstance(quantization, Mapping) else None


def to_hf_config(model: Model, *, prefer: str | None = None) -> Values:
    """A config.json for this model; raises UnsupportedConfig if no type of transformers is the same model.

    Several types can state a plain model. `prefer` is tried first: the type that a checkpoint came with, say.
    """
    values = model.model_dump()
    wanted = _canonical(values)
    preferred = _plain(prefer or _family(model) or "")
    nearest: list[str] = []
    closest = ""
    for hf_type in sorted(HF_TYPES, key=lambda hf_type: _plain(hf_type.model_type) != preferred):
        if not hf_type.writes:
            continue
        config = hf_type.write(values)
        lost = _lost(wanted, config)
        if not lost:
            return config
        if not nearest or len(lost) < len(nearest):
            nearest, closest = lost, hf_type.model_type
    raise UnsupportedConfig(
        nearest[0], f"no type of transformers can state it; the closest, {closest}, loses {', '.join(nearest)}"
    )


def _plain(name: str) -> str:
    """gpt-j, gptj and GPT_J as one."""
    return name.lower().replace("-", "").replace("_", "")


def _family(model: Model) -> str | None:
    """The family that a model was written in, by itself or by its preset."""
    from .catalog import family_of, list_presets

    if model.preset in list_presets():
        return family_of(model.preset)
    return model.family


def _lost(wanted: Values, config: Values) -> list[str]:
    """The fields of ours that reading `config` back does not give."""
    from .model import Model

    try:
        found = _canonical(Model.model_validate(from_hf_config(config)).model_dump())
    except (UnsupportedConfig, ValueError) as error:
        return [getattr(error, "field", "model"), "…"] * 50
    return sorted(_differences(wanted, found))


def _differences(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Dotted paths at which two nested values differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({*a, *b}):
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif a != b:
        yield path


_NOT_COMPUTED = (
    *("preset", "family", "hf"),
    *("moe.router.aux_loss_weight", "moe.router.z_loss_weight"),
)
"""Fields that do not change what a trained model computes."""


def _canonical(values: Values) -> Values:
    """The model without the choices between two spellings of the same thing."""
    flat: Values = {**values, **{k: dict(v) for k, v in values.items() if isinstance(v, Mapping)}}
    if flat.get("moe") is not None:
        _canonical_experts(flat)
    for path in _NOT_COMPUTED:
        if get_path(flat, path) is not None:
            set_path(flat, path, None)
    attention = flat["attention"]
    if attention["kind"] == "mla":
        flat["head_dim"] = flat["num_kv_heads"] = None
    else:
        attention["kind"] = attention_kind(flat["num_heads"], flat["num_kv_heads"])
        if attention["window"] is not None and attention["window"] >= flat["max_seq_len"]:
            attention["window"] = None
        every = attention["global_every"]
        if attention["window"] is None or (every is not None and every > flat["num_layers"]):
            attention["global_every"] = None
        if attention["scale"] is not None:
            attention["scale"] = float(f"{attention['scale']:.12g}")
    if flat["embedding"]["scale"] == "sqrt_hidden_size":
        flat["embedding"]["scale"] = flat["hidden_size"] ** 0.5
    size = attention["qk_rope_head_dim"] if attention["kind"] == "mla" else flat["head_dim"]
    if flat["position"].get("rotary_dim") == size:
        flat["position"]["rotary_dim"] = None
    return flat


def _canonical_experts(flat: Values) -> None:
    """Which layers have experts as a list, widths filled in, and no dense block where no layer is dense."""
    moe = flat["moe"] = {**flat["moe"], "router": dict(flat["moe"]["router"])}
    width = moe["intermediate_size"] or flat["intermediate_size"]
    shared = moe["shared_experts"]
    moe["layers"] = expert_flags(flat)
    moe["first_dense_layers"] = moe["every"] = None
    moe["intermediate_size"] = width
    moe["shared_intermediate_size"] = (moe["shared_intermediate_size"] or shared * width) if shared else None
    if moe["router"]["balance"] == "none":
        moe["router"]["balance"] = "aux_loss"
    if all(moe["layers"]):
        flat["intermediate_size"] = None
        flat["mlp"] = {**flat["mlp"], "bias": False}
