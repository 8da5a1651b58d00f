"""One declaration a Hugging Face model type, read and written by `spec/hf_config.py`."""
