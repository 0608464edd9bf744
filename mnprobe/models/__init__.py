"""The models in pure torch: `viclip`, `arp`, and `clip`, which both use."""
