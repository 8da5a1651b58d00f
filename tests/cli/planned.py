"""Specs that several tests of plans start from."""

TRAINED = """\
llmc: 1
name: trained
model: {family: llama, hidden_size: 4096, num_layers: 16, num_heads: 32, num_kv_heads: 8, intermediate_size: 14336,
        vocab_size: 32000, max_seq_len: 4096}
hardware: {accelerator: h100-sxm-80g, nodes: 2, per_node: 8, price_per_hour_usd: 2.0}
train: {objective: causal_lm, steps: 1000, seq_len: 4096, global_batch: 64}
parallel: auto
"""
FIXED = TRAINED.replace(
    "parallel: auto", "parallel: {tp: 2, sequence_parallel: true, pp: 2, dp_shard: 4, zero: 1, micro_batch: 2}"
)
SERVED = """\
llmc: 1
name: served
model: {preset: llama-3-8b}
hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 8}
serve:
  max_seq_len: 8192
  weights: {dtype: [bf16, fp8]}
  workload: {input_tokens: 2048, output_tokens: 256, requests_per_s: 40}
  slo: {ttft_p99_ms: 2000, tpot_p99_ms: 40}
"""
TINY = """\
llmc: 1
name: tiny
model: {family: llama, hidden_size: 64, num_layers: 2, num_heads: 4, intermediate_size: 128, vocab_size: 512, max_seq_len: 64}
hardware: {accelerator: cpu}
data: {sources: [{source: python-stdlib}], tokenizer: {train: bpe}}
train: {objective: causal_lm, steps: 10, seq_len: 32, global_batch: 4, precision: fp32}
serve: {max_seq_len: 64}
"""
