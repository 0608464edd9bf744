"""The two models in pure torch: `viclip` (understanding), `arp` (execution), `clip` (what both take from CLIP)."""
