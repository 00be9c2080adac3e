"""Where work is kept: the content-addressed store, run folders, and the processes that fill them."""
