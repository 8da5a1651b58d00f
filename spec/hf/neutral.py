"""Keys of a config.json that do not change what a trained model computes."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CLASSES = _words("""
    architectures model_type auto_map transformers_version tokenizer_class _name_or_path name_or_path _commit_hash
    task_specific_params finetuning_task custom_pipelines _from_model_config is_llama_config transformers.js_config
""")
"""Which code loads it."""

STORAGE = _words("torch_dtype dtype quantization_config")
"""How the weights are stored: the importer's business, see `stored_format`."""

TOKENS = _words("""
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id decoder_start_token_id
    image_token_id image_token_index boi_token_id eoi_token_id boi_token_index eoi_token_index
""")
"""Which tokens mean what."""

RUNNING = _words("""
    use_cache attn_implementation _attn_implementation _attn_implementation_autoset cache_implementation use_flash_attn
    pretraining_tp return_dict output_attentions output_hidden_states output_router_logits is_decoder torchscript
    return_dict_in_generate reorder_and_upcast_attn attention_softmax_in_fp32 scale_attention_softmax_in_fp32
    gradient_checkpointing
""")
"""How inference code runs it."""

THEIR_TRAINING = _words("""
    initializer_range init_std attention_dropout attn_pdrop resid_pdrop embd_pdrop emb_pdrop hidden_dropout dropout
    residual_dropout embedding_dropout layerdrop activation_dropout classifier_dropout seq_aux aux_loss_alpha
""")
"""Initialisation and regularisation; llmc trains without dropout."""

OTHER_TASKS = _words("""
    id2label label2id num_labels problem_type summary_type summary_use_proj summary_activation summary_proj_to_labels
    summary_first_dropout chunk_size_feed_forward predict_special_tokens
""")
"""Heads for other tasks."""

GENERATION = _words("""
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids prefix
    num_return_sequences output_scores forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
""")
"""Arguments of `generate` that older versions wrote into every config."""

NEUTRAL = CLASSES | STORAGE | TOKENS | RUNNING | THEIR_TRAINING | OTHER_TASKS | GENERATION
