"""Figures as values: what is drawn, and the rows beside it."""
