"""How students become small, and what they cost."""
