"""Where actions are carried out."""
