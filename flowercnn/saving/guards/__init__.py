"""Checks of files from strangers, before anything is built from them."""
