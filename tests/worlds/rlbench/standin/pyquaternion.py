"""Only looked for: RLBench imports it, the stand-in does not."""
