"""One run, stage by stage: what each stage reads, makes and records."""
