"""What a generated serve.py stands on: scheduler, KV blocks, sampler, engine thread and the OpenAI-compatible API."""
