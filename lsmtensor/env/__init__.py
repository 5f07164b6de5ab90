"""Files, clock and faults: all that the engine knows of the machine it runs on."""
