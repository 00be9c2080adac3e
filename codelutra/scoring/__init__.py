"""Numbers and their uncertainty: pass@k, intervals, paired tests, which policy is best."""
