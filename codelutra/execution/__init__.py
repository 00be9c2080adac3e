"""Programs through the sandbox: outcomes, the check of references, generated cases."""
