"""Backups: the database in one snapshot, and the blobs that it refers to. No private key is ever in one."""
