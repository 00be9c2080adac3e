"""What a policy learns from, and the process that trains it."""
