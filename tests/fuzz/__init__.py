"""Random attacks: whatever is asked, the answer is right or an error that names the argument."""
