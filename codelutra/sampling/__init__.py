"""Completions from a policy: vLLM in a process of its own, or servers that speak OpenAI's protocol."""
