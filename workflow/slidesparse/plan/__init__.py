"""The configuration, the points that it stands for, their keys, and what jobs ask of a cluster. Imports no torch."""
