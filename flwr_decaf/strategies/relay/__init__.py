"""The relay: the parts that all decentralized strategies share."""
