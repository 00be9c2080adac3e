"""Hand-written problems: a function's docstring says what it returns, then its arguments, one tuple a case.

They are read as text, never imported: what stands here is what a model is taught, so it is plain and short.
"""
