"""The cryptographic core: tokens, key derivation, the keyring. Imports no framework."""
