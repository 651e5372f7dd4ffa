"""LoRA on a sentence encoder, trained peer to peer."""
