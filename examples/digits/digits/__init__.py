"""A CNN on handwritten digits, trained peer to peer."""
