"""Models: frozen bases, adapters, and the hardware they run on."""
