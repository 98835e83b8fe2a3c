"""Who measures, and where: the resident worker, what it serves, and the device that a measurement has to itself."""
