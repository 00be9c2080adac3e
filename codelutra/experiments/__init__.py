"""Several runs together: methods compared, settings swept, models evaluated, a policy retrained."""
