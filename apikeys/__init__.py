"""Keys to this API, stored as hashes, and each user's own keys to AI providers, encrypted."""
