"""What this machine is, how it is set, and who holds its memory."""
