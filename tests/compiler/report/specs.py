"""Small specs whose pages the tests draw: with a pipeline, left to the planner, and served."""

PIPELINE = """
llmc: 1
name: pipeline
model: {family: llama, hidden_size: 1024, num_layers: 8, num_heads: 8, num_kv_heads: 4, intermediate_size: 4096,
        vocab_size: 32000, max_seq_len: 2048}
hardware: {accelerator: h100-sxm-80g, nodes: 2, per_node: 8, price_per_hour_usd: 2.0}
train: {objective: causal_lm, steps: 1000, seq_len: 2048, global_batch: 64}
parallel: {tp: 2, sequence_parallel: true, pp: 4, schedule: interleaved_1f1b, virtual_stages: 2, dp_shard: 2, zero: 1, micro_batch: 2}
"""
SEARCHED = """
llmc: 1
name: searched
model: {family: llama, hidden_size: 4096, num_layers: 16, num_heads: 32, num_kv_heads: 8, intermediate_size: 14336,
        vocab_size: 32000, max_seq_len: 4096}
hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 8, price_per_hour_usd: 2.0}
train: {objective: causal_lm, steps: 1000, seq_len: 4096, global_batch: 64}
parallel: auto
"""
SERVED = """
llmc: 1
name: served
model: {preset: llama-3-8b}
hardware: {accelerator: h100-sxm-80g, nodes: 1, per_node: 8, price_per_hour_usd: 2.0}
serve:
  max_seq_len: 8192
  weights: {dtype: [bf16, fp8]}
  workload: {input_tokens: 2048, output_tokens: 256, requests_per_s: 12}
  slo: {ttft_p99_ms: 2000, tpot_p99_ms: 40}
"""
