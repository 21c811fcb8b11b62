"""What tests share: contexts, images, keys, probes, leak checks."""
