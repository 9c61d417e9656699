"""Action, agents, text and camera rays <-> tokens and features."""
