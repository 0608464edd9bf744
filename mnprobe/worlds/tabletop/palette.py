"""Colors of the tabletop: six distinct at 128 x 128, and neutral ones."""

__all__ = ["FURNITURE", "GREY", "PALETTE", "STEEL", "WHITE", "WOOD", "Colour"]

Colour = tuple[float, float, float]

PALETTE: dict[str, Colour] = {
    "red": (0.85, 0.08, 0.08),
    "green": (0.05, 0.60, 0.10),
    "blue": (0.08, 0.15, 0.90),
    "yellow": (0.95, 0.85, 0.05),
    "magenta": (0.90, 0.10, 0.85),
    "cyan": (0.05, 0.85, 0.90),
}
"""Name and RGB in 0 .. 1. RLBench has 20 colours, of which several pairs differ by shade only."""

WHITE: Colour = (0.92, 0.92, 0.92)
GREY: Colour = (0.45, 0.45, 0.47)
STEEL: Colour = (0.30, 0.32, 0.36)
WOOD: Colour = (0.66, 0.53, 0.38)
FURNITURE: Colour = (0.80, 0.74, 0.64)
