"""What runs inside the training process. Nothing outside imports it. Start reading with `train.py`."""
