"""The relay: what all decentralized strategies share."""
