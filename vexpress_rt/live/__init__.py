"""Live sessions: a portrait that speaks while the speech arrives."""
