"""What was seen and done."""
