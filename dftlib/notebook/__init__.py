"""What notebooks share: checks, outputs, and how they are executed."""
