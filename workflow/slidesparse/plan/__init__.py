"""What a configuration asks for: its form, its matrix of points, and what jobs ask of a cluster. No torch."""
