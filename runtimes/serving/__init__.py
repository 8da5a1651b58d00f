"""What a generated serve.py stands on: scheduler, KV slots, sampler, engine thread and the OpenAI-compatible API."""
