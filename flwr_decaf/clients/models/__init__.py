"""Models: frozen bases, adapters, and the hardware that they run on."""
