"""Where text comes from, and which node gets which part of it."""
