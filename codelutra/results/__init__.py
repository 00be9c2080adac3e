"""A run read back: its typed record, what may be said of it, where its model comes from."""
