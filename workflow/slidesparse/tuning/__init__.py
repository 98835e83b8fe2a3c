"""The search for the fastest algorithms, the tables of what was found, and the choices of `auto`."""
