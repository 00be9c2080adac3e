"""What runs inside the training process; nothing else imports it. Start with `train.py`."""
